"""The figures of the report: plain rows of the evaluation tables in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml.report.names import SYSTEMS, in_order, metric_name, system_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
_OURS, _OTHERS = "C3", "C0"
METRICS = ("recall", "ndcg", "mrr")
_COLD = ("in training", "not in training", "in no sequence")


def systems_figure(rows: Sequence[Row]) -> Figure:
    """Return every system of one view: a panel per metric, a line per system with its interval."""
    present = {row["system"] for row in rows}
    names = in_order(present)
    figure, panels = _panels(len(METRICS), len(names))
    for panel, metric in zip(panels, METRICS, strict=True):
        own = {row["system"]: row for row in rows if row["metric"] == metric}
        for place, name in enumerate(names):
            if name in own:
                _interval(panel, own[name], place, _color(name))
        panel.set_title(metric_name(metric, next((row["k"] for row in own.values()), 0)), fontsize="medium")
        panel.set_xlim(left=0)
    _label(panels[0], [system_name(name, present) for name in names])
    return figure


def differences_figure(rows: Sequence[Row]) -> Figure:
    """Return by how much ours leads each system of one view, with the paired interval and a line at zero."""
    names = in_order({row["system"] for row in rows})
    figure, panels = _panels(len(METRICS), len(names))
    for panel, metric in zip(panels, METRICS, strict=True):
        own = {row["system"]: row for row in rows if row["metric"] == metric}
        panel.axvline(0, color="0.4", linewidth=1)
        for place, name in enumerate(names):
            if name in own:
                _interval(panel, own[name], place, _lead_color(own[name]))
        panel.set_title(f"lead in {metric_name(metric, next((r['k'] for r in own.values()), 0))}", fontsize="medium")
    _label(panels[0], [system_name(name, {"ours", *names}) for name in names])
    return figure


def breakdown_figure(rows: Sequence[Row], metric: str = "ndcg") -> Figure:
    """Return one metric of every system by group of one breakdown of one view, each with its interval."""
    present = {row["system"] for row in rows}
    groups = list(dict.fromkeys(row["group"] for row in sorted(rows, key=_group_order)))
    sizes = {row["group"]: row["examples"] for row in rows}
    figure, (panel,) = _panels(1, 10)
    for place, name in enumerate(in_order(present)):
        own = {r["group"]: r for r in rows if r["system"] == name and r["metric"] == metric}
        shift = 0.7 * ((place + 0.5) / len(present) - 0.5)
        for i, row in ((i, own[group]) for i, group in enumerate(groups) if group in own):
            x, color = i + shift, _line_color(name)
            ends = [row["value"] if row[end] is None else row[end] for end in ("low", "high")]
            panel.plot([x, x], ends, color=color, linewidth=3 if name.startswith("ours") else 1.5)
            label = system_name(name, present) if row is next(iter(own.values())) else None
            panel.plot([x], [row["value"]], "o", color=color, label=label)
    panel.set_xticks(range(len(groups)), [f"{group}\n{sizes[group]:,} purchases" for group in groups], fontsize="small")
    panel.set_ylabel(metric_name(metric, next((row["k"] for row in rows), 0)))
    panel.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    return figure


def cost_figure(costs: Sequence[Row], metrics: Sequence[Row], metric: str = "ndcg") -> Figure:
    """Return each system of one view by its seconds (fit and rank together) and one metric."""
    values = {row["system"]: row for row in metrics if row["metric"] == metric}
    present = set(values)
    figure, (panel,) = _panels(1, 8)
    for row in costs:
        if row["system"] in values:
            x, y = row["fit_seconds"] + row["rank_seconds"], values[row["system"]]["value"]
            panel.plot([x], [y], "o", color=_color(row["system"]))
            panel.annotate(
                system_name(row["system"], present), (x, y), (4, 3), textcoords="offset points", fontsize="small"
            )
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:,g}")
    panel.xaxis.set_minor_formatter("{x:,g}")
    panel.tick_params(axis="x", which="both", labelsize="small")
    panel.set_xlabel("seconds to fit and to rank the test purchases")
    panel.set_ylabel(metric_name(metric, next((row["k"] for row in metrics), 0)))
    panel.margins(x=0.25)
    return figure


def zero_shot_figure(rows: Sequence[Row]) -> Figure:
    """Return every system on every category that its models never saw: a panel per metric, with intervals."""
    present = {row["system"] for row in rows}
    lines = [(category, name) for category in dict.fromkeys(r["category"] for r in rows) for name in in_order(present)]
    figure, panels = _panels(len(METRICS), len(lines))
    for panel, metric in zip(panels, METRICS, strict=True):
        own = {(row["category"], row["system"]): row for row in rows if row["metric"] == metric}
        for place, line in enumerate(lines):
            if line in own:
                _interval(panel, own[line], place, _color(line[1]))
        panel.set_title(metric_name(metric, next((row["k"] for row in own.values()), 0)), fontsize="medium")
        panel.set_xlim(left=0)
    _label(panels[0], [f"{_plain(category)}: {system_name(name, present)}" for category, name in lines])
    return figure


def share_figure(rows: Sequence[Row], metric: str = "ndcg") -> Figure:
    """Return one metric by the share of the training sample, a line with its interval per system."""
    present = {row["system"] for row in rows}
    figure, (panel,) = _panels(1, 8)
    for name in in_order(present):
        own = sorted((r for r in rows if r["system"] == name and r["metric"] == metric), key=lambda r: r["share"])
        shares = [row["share"] for row in own]
        panel.plot(
            shares, [row["value"] for row in own], ".-", color=_line_color(name), label=system_name(name, present)
        )
        panel.fill_between(
            shares, [row["low"] for row in own], [row["high"] for row in own], color=_line_color(name), alpha=0.15
        )
    shares = sorted({row["share"] for row in rows})
    panel.set_xticks(shares, [f"{share:.0%}" for share in shares])
    panel.set_xlabel("share of the training sample")
    panel.set_ylabel(metric_name(metric, next((row["k"] for row in rows), 0)))
    panel.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    return figure


def _plain(text: str) -> str:
    """Return text as matplotlib shows it: dollars are dollars, not formulas."""
    return text.replace("$", r"\$")


def _group_order(row: Row) -> tuple[int, str]:
    """Histories by length, cold start from the largest group to the smallest, the others as they are named."""
    group = row["group"]
    if group in _COLD:
        return (_COLD.index(group), group)
    words = group.split()
    number = next((int(word) for word in words if word.isdigit()), 0)
    return (0 if words[0] == "under" else number, group)


def _panels(count: int, rows: int) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1 + 0.32 * max(3, rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
    return figure, list(panels)


def _interval(panel: Axes, row: Row, place: int, color: str) -> None:
    panel.plot([row["low"], row["high"]], [place, place], color=color, linewidth=2)
    panel.plot([row["value"]], [place], "o", color=color)


def _label(panel: Axes, names: Sequence[str]) -> None:
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()


def _line_color(system: str) -> Any:
    """A colour of its own for every known system; ours is red."""
    from matplotlib import colormaps

    place = 2 * (list(SYSTEMS).index(system) if system in SYSTEMS else len(SYSTEMS))
    return colormaps["tab20"]((place + 6) % 20 + place // 20)


def _lead_color(row: Row) -> str:
    """Green where the whole interval is above zero, orange where it is below, grey where nothing can be told."""
    return "C2" if row["low"] > 0 else "C1" if row["high"] < 0 else "0.5"


def _color(system: str) -> str:
    return _OURS if system.startswith("ours") else _OTHERS
