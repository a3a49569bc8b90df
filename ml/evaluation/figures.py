"""One plot for people: every system's metrics with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {"recall": "Recall@{k}", "ndcg": "NDCG@{k}", "mrr": "MRR"}


def metrics_figure(table: pa.Table, title: str = "") -> Figure:
    """Return a figure of `evaluation_metrics` rows: a panel per metric, a row per slice, a dot per system.

    A slice is a combination of split, actions and candidates (and category, where that column is there). Lines are
    the bootstrap intervals; a missing one is left out. The figure belongs to no window, so nothing need be closed.
    """
    from matplotlib.figure import Figure

    rows = table.to_pylist()
    slices = sorted({_slice(row) for row in rows})
    systems = sorted(set(table["system"].to_pylist()), key=lambda name: (name != "ours", name))
    height = 1.2 + 0.45 * max(1, len(slices)) * max(1, len(systems)) / 2
    figure = Figure(figsize=(11, max(2.8, height)), layout="constrained")
    panels = figure.subplots(1, len(_TITLES), sharey=True)
    labelled: set[str] = set()
    for panel, metric in zip(panels, _TITLES, strict=True):
        for number, system in enumerate(systems):
            mine = {_slice(row): row for row in rows if row["system"] == system and row["metric"] == metric}
            offset = (number - (len(systems) - 1) / 2) * 0.8 / max(1, len(systems))
            for place, name in enumerate(slices):
                if name in mine:
                    _draw(panel, mine[name], place + offset, f"C{number}", None if system in labelled else system)
                    labelled.add(system)
        panel.set_title(_TITLES[metric].format(k=next((row["k"] for row in rows), "K")))
        panel.set_xlim(left=0)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(slices)), slices)
    panels[0].invert_yaxis()
    if labelled:
        figure.legend(loc="outside lower center", ncols=len(labelled), frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def _slice(row: dict) -> str:
    parts = [row.get("category"), row["split"].replace("_", "-"), row["actions"].replace("_", " "), row["candidates"]]
    return ", ".join(part for part in parts if part)


def _draw(panel, row: dict, y: float, color: str, label: str | None) -> None:  # noqa: ANN001 (matplotlib Axes)
    panel.plot([row["low"], row["high"]], [y, y], color=color, linewidth=2)
    panel.plot([row["value"]], [y], "o", color=color, label=label)
