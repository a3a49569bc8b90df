"""Writes the report: tables and figures of every category and view, as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ml.errors import BadInputError
from ml.files import write_file
from ml.report.customers import customers
from ml.report.figures import METRICS, breakdown_figure, cost_figure, differences_figure, systems_figure
from ml.report.names import ACTIONS, SPLITS, in_order, metric_name, system_name
from ml.report.studies import experiment_figures, experiment_rows
from ml.settings import MoreSystem, Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BREAKDOWNS = {
    "history": "By length of history",
    "search": "Purchases that came from a search, and others",
    "repeat": "Items the customer had seen before, and others",
    "cold": "Cold start: items that training never saw (the paper's figure 4)",
}
_CANDIDATES = "catalogue"


def write_report(settings: Settings, warehouse: Warehouse, folder: Path) -> Path:
    """Write `index.html` and the figures as PNG files into `folder`; return the page's path.

    The page holds its figures, so that it can be sent as one file; text of the log is escaped. Raises BadInputError
    where nothing has been evaluated yet.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    listed = [name for name in settings.categories if name in warehouse.level_values("evaluation_metrics", "category")]
    categories = [found for name in listed if (found := _category(warehouse, name, folder))]
    if not categories:
        raise BadInputError(f"{settings.warehouse}: nothing has been evaluated yet: run `hemline evaluate`")
    environment = Environment(loader=PackageLoader("ml.report", "."), autoescape=True, undefined=StrictUndefined)
    days = warehouse.days("interactions")
    page = environment.get_template("page.html").render(
        categories=categories,
        realised=_realised(warehouse),
        experiments=experiment_rows(settings, warehouse),
        experiment_figures=_pictures(experiment_figures(settings, warehouse), folder),
        study=settings.experiments,
        first=days[0],
        last=days[-1],
        evaluation=settings.evaluation,
        base_model=settings.language_model.base_model,
        heads=[metric_name(metric, settings.evaluation.k) for metric in METRICS],
    )
    file = folder / "index.html"
    write_file(file, lambda path: path.write_text(page, encoding="utf-8"))
    return file


def _category(warehouse: Warehouse, category: str, folder: Path) -> dict[str, Any] | None:
    """Return everything the page shows of a category; None where it has no test example."""
    names = ("metrics", "differences", "breakdowns", "costs")
    tables = {name: warehouse.read(f"evaluation_{name}", category=category).to_pylist() for name in names}
    if not tables["metrics"]:
        return None
    seen = dict.fromkeys((row["split"], row["actions"]) for row in tables["metrics"])
    views = [_view(warehouse, category, view, tables, folder) for view in seen]
    return {"name": category, "views": views}


def _view(
    warehouse: Warehouse, category: str, view: tuple[str, str], tables: Mapping[str, list[dict[str, Any]]], folder: Path
) -> dict[str, Any]:
    def rows(table: str) -> list[dict[str, Any]]:
        chosen = [row for row in tables[table] if (row["split"], row["actions"]) == view]
        return [row for row in chosen if row.get("candidates", _CANDIDATES) == _CANDIDATES]

    metrics, differences, costs = rows("metrics"), rows("differences"), rows("costs")
    stem = _file_name(category, *view)
    figures = [("Every system, with its interval", "systems", systems_figure(metrics))]
    if differences:
        figures.append(("How far ours leads (grey: the interval holds zero)", "lead", differences_figure(differences)))
    for name, title in BREAKDOWNS.items():
        own = [row for row in rows("breakdowns") if row["breakdown"] == name]
        if own:
            figures.append((title, name, breakdown_figure(own)))
    figures.append(("Cost beside quality", "cost", cost_figure(costs, metrics)))
    return {
        "name": f"{SPLITS[view[0]]}, {ACTIONS[view[1]]}",
        "examples": metrics[0]["examples"],
        "head": [metric_name(metric, metrics[0]["k"]) for metric in METRICS],
        "systems": _system_rows(metrics, differences, costs),
        "missing": _missing({row["system"] for row in metrics}, view[1]),
        "claim": _claim(metrics, differences),
        "figures": _pictures([(title, f"{stem}-{name}", figure) for title, name, figure in figures], folder),
        "customers": customers(warehouse, category, *view),
    }


def _system_rows(
    metrics: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]], costs: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    present = {row["system"] for row in metrics}
    cells = {(row["system"], row["metric"]): row for row in metrics}
    leads = {(row["system"], row["metric"]): row for row in differences}
    cost = {row["system"]: row for row in costs}
    return [
        {
            "name": system_name(name, present),
            "ours": name.startswith("ours"),
            "cells": [{"value": cells[name, metric], "lead": leads.get((name, metric))} for metric in METRICS],
            "cost": cost.get(name),
        }
        for name in in_order(present)
    ]


def _missing(present: set[str], actions: str) -> list[dict[str, str]]:
    """Return the systems that have no row in a view, with their setting; Recformer with queries needs searches."""
    known = [name for name in get_args(MoreSystem) if name != "recformer_queries" or actions == "all"]
    return [{"name": system_name(name, present), "setting": name} for name in known if name not in present]


def _claim(metrics: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]) -> str:
    """Return, in a sentence, how ours stands to the strongest other system in each metric."""
    words, present = [], {row["system"] for row in metrics}
    for metric in METRICS:
        others = [row for row in metrics if row["metric"] == metric and not row["system"].startswith("ours")]
        best = max(others, key=lambda row: row["value"], default=None)
        lead = next((r for r in differences if best and (r["system"], r["metric"]) == (best["system"], metric)), None)
        if best is None or lead is None:
            continue
        name = metric_name(metric, lead["k"])
        by = "" if lead["ratio"] is None else f" ({lead['ratio']:+.0%})"
        if lead["low"] > 0:
            words.append(f"in {name} ours leads {system_name(best['system'], present)}, the strongest other, by "
                         f"{lead['value']:.3f}{by}")  # fmt: skip
        elif lead["high"] < 0:
            words.append(f"in {name} {system_name(best['system'], present)} leads ours by {-lead['value']:.3f}{by}")
        else:
            words.append(f"in {name} no claim against {system_name(best['system'], present)}{by}: the interval of the "
                         "difference holds zero")  # fmt: skip
    return "; ".join(words)


def _realised(warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return how each published table did the day after, all sources together."""
    return [
        {"day": day, **row}
        for day in warehouse.days("realised")
        for row in warehouse.read("realised", date=day).to_pylist()
        if row["source"] == "all" and row["value"] is not None
    ]


def _pictures(figures: Sequence[tuple[str, str, Figure]], folder: Path) -> list[dict[str, str]]:
    """Return what the page shows of (title, file name, figure)."""
    return [{"title": title, "source": _picture(figure, folder / f"{name}.png")} for title, name, figure in figures]


def _picture(figure: Figure, file: Path) -> str:
    """Write the figure as PNG and return it as an address for the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_file(file, lambda path: path.write_bytes(buffer.getvalue()))
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _file_name(*parts: str) -> str:
    return "-".join(re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in parts)
