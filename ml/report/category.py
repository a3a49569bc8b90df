"""What the page shows of one category: its views, their tables, figures, claims and customers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml.report.customers import customers
from ml.report.figures import METRICS, breakdown_figure, cost_figure, differences_figure, systems_figure
from ml.report.missing import missing_systems, missing_views
from ml.report.names import ACTIONS, SPLITS, in_order, metric_name, system_name
from ml.report.orders import side_by_side
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 250
"""Purchases below which nothing is claimed: the 95% interval of a share may reach 6 points to each side."""
BREAKDOWNS = {
    "history": ("By length of history", "Item steps (clicks and purchases) before the purchase."),
    "search": (
        "Purchases that came from a search, and others",
        "Whether the purchase names a search in its session; no system is shown that.",
    ),
    "repeat": ("Items the customer had seen before, and others", "Whether the bought item stands in the history."),
    "cold": (
        "Cold start: items that training never saw (the paper's figure 4)",
        "The groups lie in each other: of the items not in training, some stand in no test history either.",
    ),
}
CATALOGUE = "catalogue"
Tables = Mapping[str, Sequence[dict[str, Any]]]


def category_tables(warehouse: Warehouse, category: str) -> Tables:
    """Return the rows of a category's evaluation tables by the second word of their name."""
    names = ("metrics", "differences", "breakdowns", "costs")
    return {name: warehouse.read(f"evaluation_{name}", category=category).to_pylist() for name in names}


def category_views(
    settings: Settings, warehouse: Warehouse, category: str, tables: Tables, realised: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return a category's name, its views, what has not been run, and its systems side by side over the views."""
    found = {(row["split"], row["actions"]) for row in tables["metrics"]}
    seen = [(split, actions) for split in SPLITS for actions in ACTIONS if (split, actions) in found]
    return {
        "name": category,
        "views": [_view(settings, warehouse, category, view, tables) for view in seen],
        "missing": missing_views(settings, category, seen),
        "orders": side_by_side(as_named(settings, of_catalogue(tables["metrics"])), realised),
    }


def as_named(settings: Settings, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of `evaluation_metrics` in which `ours` is fusion everywhere, for tables of several views.

    Where validation had too few purchases for a ranker, `ours` is the mixup, and no `ours_mixup` stands beside it.
    """
    both = settings.recommendations.order == "fusion" and settings.evaluation.mixup
    fused = {(row["split"], row["actions"]) for row in rows if row["system"] == "ours_mixup"}
    return [
        {**row, "system": "ours_mixup"}
        if both and row["system"] == "ours" and (row["split"], row["actions"]) not in fused
        else row
        for row in rows
    ]


def of_catalogue(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that rank the whole catalogue; a table without the choice is about it."""
    return [row for row in rows if row.get("candidates", CATALOGUE) == CATALOGUE]


def _view(
    settings: Settings, warehouse: Warehouse, category: str, view: tuple[str, str], tables: Tables
) -> dict[str, Any]:
    own = {name: [r for r in rows if (r["split"], r["actions"]) == view] for name, rows in tables.items()}
    every, differences, costs = own["metrics"], of_catalogue(own["differences"]), own["costs"]
    metrics = of_catalogue(every)
    available = [row for row in every if row["candidates"] == "available"]
    return {
        "key": (category, *view),
        "name": f"{SPLITS[view[0]]}, {ACTIONS[view[1]]}",
        "examples": metrics[0]["examples"],
        "made": {name: _told(metrics, name) for name in ("data", "seed", "code_version")},
        "head": [metric_name(metric, metrics[0]["k"]) for metric in METRICS],
        "systems": system_rows(metrics, differences, costs),
        "available": system_rows(available, [r for r in own["differences"] if r["candidates"] == "available"], []),
        "missing": missing_systems(settings, category, view[1], {row["system"] for row in metrics}),
        "claim": claim(metrics, differences),
        "figures": _figures(metrics, differences, of_catalogue(own["breakdowns"]), costs),
        "customers": customers(warehouse, category, *view),
    }


def _told(rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    """Return the values of a column, none where an older version wrote the rows without it."""
    return sorted({str(row[name]) for row in rows if row[name] is not None})


def _figures(
    metrics: Sequence[dict[str, Any]],
    differences: Sequence[dict[str, Any]],
    breakdowns: Sequence[dict[str, Any]],
    costs: Sequence[dict[str, Any]],
) -> list[tuple[str, str, str, Figure]]:
    """Return (title, caption, name of the file, figure)."""
    figures = [
        ("Every system, with its interval", "Dots are means, lines intervals; ours is red.", "systems",
         systems_figure(metrics)),
    ]  # fmt: skip
    if differences:
        figures.append(
            ("How far ours leads", "Ours minus the system on the same purchases. Green: the whole interval is above "
             "zero; orange: below; grey: it holds zero, so nothing is claimed.", "lead",
             differences_figure(differences))
        )  # fmt: skip
    for name, (title, caption) in BREAKDOWNS.items():
        rows = [row for row in breakdowns if row["breakdown"] == name]
        if rows:
            few = sorted({row["group"] for row in rows if row["examples"] < FEW})
            small = f" Under {FEW} purchases, so no claim: {', '.join(few)}." if few else ""
            figures.append((title, caption + small, name, breakdown_figure(rows)))
    caption = "Seconds to fit and to rank the test purchases, on a logarithmic scale, and NDCG: up and left is better."
    return [*figures, ("Cost beside quality", caption, "cost", cost_figure(costs, metrics))]


def system_rows(
    metrics: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]], costs: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a table's rows, a system each: its metrics, by how much ours leads it, and its cost."""
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


def claim(metrics: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]) -> str:
    """Return, in sentences, how ours stands to the strongest other system; of few purchases nothing is claimed."""
    words, present = [], {row["system"] for row in metrics}
    for metric in METRICS:
        others = [row for row in metrics if row["metric"] == metric and not row["system"].startswith("ours")]
        best = max(others, key=lambda row: row["value"], default=None)
        lead = next((r for r in differences if best and (r["system"], r["metric"]) == (best["system"], metric)), None)
        if best is None or lead is None:
            continue
        name, other = metric_name(metric, lead["k"]), system_name(best["system"], present)
        sign = -1 if lead["high"] < 0 else 1
        low, high = sorted((sign * lead["low"], sign * lead["high"]))
        by = f"{sign * lead['value']:.3f} [{low:.3f}, {high:.3f}]"
        by += "" if lead["ratio"] is None else f" (ours {lead['ratio']:+.0%})"
        if lead["low"] > 0:
            words.append(f"in {name} ours leads {other}, the strongest other, by {by}")
        elif sign < 0:
            words.append(f"in {name} {other} leads ours by {by}")
        else:
            words.append(f"in {name} no claim against {other}, the strongest other: the difference {by} may be none")
    said = "; ".join(words)
    if words and metrics[0]["examples"] < FEW:
        return f"No claim: fewer than {FEW} purchases. What these gave: {said}."
    return f"{said[:1].upper()}{said[1:]}." if words else ""
