"""Small plots for Dagster's UI, where one says more than a number: from plain values to a figure, nothing read here.

Every function returns None where there is nothing to draw. Names that a shop chose are never read as mathtext, so a
`$` in one is a `$`. The figures belong to no window, so nothing need be closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.common import figure_markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DAYS = 28
"""Newest published days that a plot over days shows."""
MAX_BINS = 30
MAX_CATEGORIES = 8
"""Categories that a plot over days tells apart: those with the most buyers."""
MAX_NAME = 20
_SIZE = (5.6, 2.7)
_ACTIONS = {"search": "C0", "click": "C1", "purchase": "C2"}
_SOURCES = {"language_model": "C0", "carried": "C1", "retrieval": "C2", "popular": "C7"}


def plots(**figures: Figure | None) -> dict[str, dg.MarkdownMetadataValue]:
    """Return the figures as asset metadata by name, without those that are None."""
    return {name: figure_markdown(figure) for name, figure in figures.items() if figure is not None}


def newest_days(published: Iterable[str], last: str) -> list[str]:
    """Return the days a plot shows: the newest published ones up to `last`, sorted."""
    return sorted(day for day in published if day <= last)[-DAYS:]


def events_figure(counts: Mapping[str, Mapping[str, int]]) -> Figure | None:
    """Return the events of each day (day → action → events) as a bar a day, stacked by action."""
    if not any(sum(of_day.values()) for of_day in counts.values()):
        return None
    figure, axes = _canvas()
    days = sorted(counts)
    places, below = [date.fromisoformat(day).toordinal() for day in days], np.zeros(len(days))
    drawn = {}
    for action, color in _ACTIONS.items():
        heights = np.array([counts[day].get(action, 0) for day in days])
        if heights.any():
            drawn[action] = axes.bar(places, heights, bottom=below, color=color, width=0.8)
            below += heights
    _day_axis(axes, days)
    _count_axis(axes.yaxis, "events")
    _legend(axes, drawn)
    return figure


def item_steps_figure(steps: Mapping[str, pa.ChunkedArray], needed: int) -> Figure | None:
    """Return a histogram of item steps before a purchase, a line per category; `needed` of them make an example."""
    numbers = {name: values.to_numpy() for name, values in steps.items() if len(values)}
    if not numbers:
        return None
    figure, axes = _canvas()
    edges = _whole_edges(max(int(values.max()) for values in numbers.values()))
    drawn = {}
    for place, (name, values) in enumerate(sorted(numbers.items())):
        drawn[name] = axes.stairs(np.histogram(values, edges)[0], edges, color=f"C{place}", linewidth=1.5)
    drawn[f"an example: from {needed}"] = axes.axvline(needed - 0.5, color="0.4", linestyle="--", linewidth=1)
    axes.set_xlabel("item steps before the purchase")
    axes.set_xlim(edges[0], edges[-1])
    _count_axis(axes.yaxis, "purchases")
    _legend(axes, drawn)
    return figure


def products_figure(items: pa.ChunkedArray) -> Figure | None:
    """Return how many queries have how many products in the memory; `items` has a list of products per query."""
    if not len(items):
        return None
    lengths = pc.list_value_length(items).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    figure, axes = _canvas()
    edges = _whole_edges(int(lengths.max()))
    axes.stairs(np.histogram(lengths, edges)[0], edges, fill=True, color="C0")
    _count_axis(axes.xaxis, "products remembered for a query")
    _count_axis(axes.yaxis, "queries")
    return figure


def epochs_figure(scores: Sequence[tuple[int, float]], label: str) -> Figure | None:
    """Return a score by epoch, the best epoch marked: the one whose weights are kept."""
    if not scores:
        return None
    figure, axes = _canvas()
    epochs, values = zip(*sorted(scores), strict=True)
    best = int(np.argmax(values))
    axes.plot(epochs, values, ".-", color="C0", linewidth=1)
    marked = axes.plot(epochs[best], values[best], "o", color="C1")[0]
    _count_axis(axes.xaxis, "epoch")
    axes.set_ylabel(label)
    _legend(axes, {f"kept: epoch {epochs[best]}": marked})
    return figure


def log_probabilities_figure(values: pa.ChunkedArray | pa.Array) -> Figure | None:
    """Return a histogram of the answers' log-probabilities; answers without one are left out."""
    numbers = values.drop_null().to_numpy().astype(float)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return None
    figure, axes = _canvas()
    axes.hist(numbers, bins=min(MAX_BINS, 1 + len(numbers) // 4), color="C0")
    middle = float(np.median(numbers))
    line = axes.axvline(middle, color="0.2", linestyle="--", linewidth=1)
    axes.set_xlabel("log-probability of the item named (nats)")
    _count_axis(axes.yaxis, "answers")
    _legend(axes, {f"median {middle:.2f}": line})
    return figure


def sources_figure(customers: Mapping[str, int]) -> Figure | None:
    """Return how many customers' lists were made in which way (source → customers)."""
    if not sum(customers.values()):
        return None
    figure, axes = _canvas()
    names = list(_SOURCES)
    bars = axes.barh(
        [name.replace("_", " ") for name in names], [customers.get(name, 0) for name in names],
        color=list(_SOURCES.values()),
    )  # fmt: skip
    axes.bar_label(bars, [f"{customers.get(name, 0):,}" for name in names], padding=3)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    _count_axis(axes.xaxis, "lists (one per customer and category)")
    return figure


def realised_figure(rows: pa.Table, k: int) -> Figure | None:
    """Return the realised Recall@K by day, with its interval, a line per category; days without buyers are left out.

    `rows` are rows of `realised` with their `date`.
    """
    kept = rows.filter((pc.field("source") == "all") & (pc.field("metric") == "recall") & pc.field("value").is_valid())
    if not kept.num_rows:
        return None
    days: dict[str, list[dict[str, Any]]] = {}
    for row in kept.sort_by([("date", "ascending")]).to_pylist():
        days.setdefault(row["category"], []).append(row)
    shown = sorted(days, key=lambda name: (-sum(row["buyers"] for row in days[name]), name))[:MAX_CATEGORIES]
    figure, axes = _canvas()
    drawn = {}
    for place, name in enumerate(shown):
        aside = (place - (len(shown) - 1) / 2) * 0.6 / len(shown)
        x = [date.fromisoformat(row["date"]).toordinal() + aside for row in days[name]]
        axes.vlines(x, [r["low"] for r in days[name]], [r["high"] for r in days[name]], color=f"C{place}", alpha=0.5)
        drawn[name] = axes.plot(x, [r["value"] for r in days[name]], ".-", color=f"C{place}", linewidth=1)[0]
    _day_axis(axes, sorted({row["date"] for name in shown for row in days[name]}))
    axes.set_ylabel(f"Recall@{k}")
    axes.set_ylim(bottom=0)
    _legend(axes, drawn)
    return figure


def _canvas() -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _whole_edges(highest: int) -> np.ndarray:
    """Return the edges of bins for 0 … `highest`, each of the same number of whole numbers."""
    width = max(1, -(-(highest + 1) // MAX_BINS))
    return np.arange(0, highest + width + 1, width) - 0.5


def _day_axis(axes: Axes, days: Sequence[str]) -> None:
    """Label the newest day and every seventh before it."""
    first, last = (date.fromisoformat(day).toordinal() for day in (days[0], days[-1]))
    ticks = list(range(last, first - 1, -7))
    axes.set_xticks(ticks, [date.fromordinal(tick).isoformat()[5:] for tick in ticks])
    axes.set_xlim(min(first, last - 6) - 0.6, last + 0.6)
    axes.set_xlabel(f"day (month-day, up to {days[-1]})")


def _count_axis(axis: Any, label: str) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_label_text(label)
    axis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _legend(axes: Axes, drawn: Mapping[str, Any]) -> None:
    """Name what was drawn, word for word: matplotlib reads `$` as mathtext and hides names that begin with `_`."""
    labels = [str(place) for place in range(len(drawn))]
    legend = axes.figure.legend(
        list(drawn.values()), labels, loc="outside upper center", ncols=3, fontsize="small", frameon=False
    )
    for text, name in zip(legend.get_texts(), drawn, strict=True):
        text.set_parse_math(False)
        text.set_text(name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…")
