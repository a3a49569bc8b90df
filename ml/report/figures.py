"""The figures of the report: plain rows of the evaluation tables in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml.report.names import in_order, metric_name, system_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
_OURS, _OTHERS = "C3", "C0"
METRICS = ("recall", "ndcg", "mrr")


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
                _interval(panel, own[name], place, "C2" if own[name]["low"] > 0 else "0.5")
        panel.set_title(f"lead in {metric_name(metric, next((r['k'] for r in own.values()), 0))}", fontsize="medium")
    _label(panels[0], [system_name(name, {"ours", *names}) for name in names])
    return figure


def breakdown_figure(rows: Sequence[Row], metric: str = "ndcg") -> Figure:
    """Return one metric of every system by group of one breakdown of one view, a line per system."""
    present = {row["system"] for row in rows}
    groups = list(dict.fromkeys(row["group"] for row in sorted(rows, key=_group_order)))
    sizes = {row["group"]: row["examples"] for row in rows}
    figure, (panel,) = _panels(1, 8)
    for place, name in enumerate(in_order(present)):
        own = {r["group"]: r for r in rows if r["system"] == name and r["metric"] == metric}
        shown = [(i, own[group]["value"]) for i, group in enumerate(groups) if group in own]
        wide, color = name.startswith("ours"), f"C{place % 10}"
        panel.plot(*zip(*shown, strict=True), ".-", color=color, linewidth=2.2 if wide else 1, label=name)
    panel.set_xticks(range(len(groups)), [f"{group}\n{sizes[group]:,} examples" for group in groups], fontsize="small")
    panel.set_ylabel(metric_name(metric, next((row["k"] for row in rows), 0)))
    panel.set_ylim(bottom=0)
    handles, _ = panel.get_legend_handles_labels()
    labels = [system_name(name, present) for name in in_order(present)]
    figure.legend(handles, labels, loc="outside right upper", fontsize="small", frameon=False)
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
    panel.set_xlabel("seconds to fit and to rank the test examples")
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
    for place, name in enumerate(in_order(present)):
        own = sorted((r for r in rows if r["system"] == name and r["metric"] == metric), key=lambda r: r["share"])
        shares = [row["share"] for row in own]
        panel.plot(shares, [row["value"] for row in own], ".-", color=f"C{place}", label=system_name(name, present))
        panel.fill_between(
            shares, [row["low"] for row in own], [row["high"] for row in own], color=f"C{place}", alpha=0.15
        )
    shares = sorted({row["share"] for row in rows})
    panel.set_xticks(shares, [f"{share:.0%}" for share in shares])
    panel.set_xlabel("share of the training sample")
    panel.set_ylabel(metric_name(metric, next((row["k"] for row in rows), 0)))
    panel.set_ylim(bottom=0)
    panel.legend(fontsize="small", frameon=False)
    return figure


def _plain(text: str) -> str:
    """Return text as matplotlib shows it: dollars are dollars, not formulas."""
    return text.replace("$", r"\$")


def _group_order(row: Row) -> tuple[int, str]:
    """Histories by length; the other groups as they are named."""
    words = row["group"].split()
    number = next((int(word) for word in words if word.isdigit()), 0)
    return (0 if words[0] == "under" else number, row["group"])


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


def _color(system: str) -> str:
    return _OURS if system.startswith("ours") else _OTHERS
