"""The same systems side by side: in every category, and by every way to hold purchases out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, get_args

from ml.report.names import ACTIONS, SPLITS, in_order, system_name
from ml.settings import MoreSystem

Row = Mapping[str, Any]
ORDERED_BY = "ndcg"
_NAMED = 6
"""Pairs of systems that a sentence names."""


def main_tables(
    metrics: Mapping[str, Sequence[Row]], shown: Sequence[str] = ("recall", "ndcg")
) -> list[dict[str, Any]]:
    """Return a table of system by category for every view (the paper's table 2): `name`, `categories`, `systems`.

    `metrics`: the rows of `evaluation_metrics` among the whole catalogue, by category.
    """
    views = {(row["split"], row["actions"]) for rows in metrics.values() for row in rows}
    tables = []
    for split in SPLITS:
        for actions in ACTIONS:
            if (split, actions) not in views:
                continue
            cells = {
                (category, row["system"], row["metric"]): row
                for category, rows in metrics.items()
                for row in rows
                if (row["split"], row["actions"]) == (split, actions)
            }
            categories = [category for category in metrics if any(key[0] == category for key in cells)]
            present = {system for _, system, _ in cells}
            wanted = [name for name in get_args(MoreSystem) if actions == "all" or name != "recformer_queries"]
            tables.append(
                {
                    "name": f"{SPLITS[split]}, {ACTIONS[actions]}",
                    "categories": categories,
                    "examples": {key[0]: row["examples"] for key, row in cells.items()},
                    "systems": [
                        {
                            "name": system_name(name, present),
                            "ours": name.startswith("ours"),
                            "fusion": name == "ours",
                            "cells": [cells.get((category, name, m)) for category in categories for m in shown],
                        }
                        for name in in_order({*present, *wanted})
                    ],
                }
            )
    return tables


def side_by_side(metrics: Sequence[Row], realised: Sequence[Row]) -> dict[str, Any] | None:
    """Return a category's systems by view, with the place each takes, and whether the order of systems changes.

    `realised`: the category's rows of `realised` of one day, of all lists together; they are of what was published, so
    of ours alone, and stand in the first row. None where there is a single view and no such row.
    """
    rows = [row for row in metrics if row["metric"] == ORDERED_BY]
    views = [(s, a) for a in ACTIONS for s in SPLITS if any((r["split"], r["actions"]) == (s, a) for r in rows)]
    published = next((row for row in realised if row["metric"] == ORDERED_BY), None)
    if len(views) + (published is not None) < 2:
        return None
    values = {view: {r["system"]: r for r in rows if (r["split"], r["actions"]) == view} for view in views}
    present = {row["system"] for row in rows}
    return {
        "heads": [f"{SPLITS[split]}, {ACTIONS[actions]}" for split, actions in views],
        "systems": [
            {
                "name": system_name(name, present),
                "ours": name.startswith("ours"),
                "cells": [
                    {"row": values[v][name], "place": _place(values[v], name)} if name in values[v] else None
                    for v in views
                ],
                "published": published if name == in_order(present)[0] else None,
            }
            for name in in_order(present)
        ],
        "published": published,
        "sentences": [
            _order_change(ACTIONS[actions], SPLITS[split], values["temporal", actions], values[split, actions], present)
            for split, actions in views
            if split != "temporal" and ("temporal", actions) in values
        ],
    }


def _place(systems: Mapping[str, Row], name: str) -> int:
    return 1 + sum(row["value"] > systems[name]["value"] for row in systems.values())


def _order_change(
    actions: str, split: str, temporal: Mapping[str, Row], other: Mapping[str, Row], present: set[str]
) -> str:
    """Return a sentence: which pairs of systems stand the other way round than on the temporal split."""
    both = in_order(temporal.keys() & other.keys())
    pairs = list(combinations(both, 2))
    turned = [
        (a, b)
        for a, b in pairs
        if (temporal[a]["value"] - temporal[b]["value"]) * (other[a]["value"] - other[b]["value"]) < 0
    ]
    start = f"{actions[:1].upper()}{actions[1:]}, {split} beside temporal split: "
    if not turned:
        return f"{start}the order of the {len(both)} systems does not change."
    names = "; ".join(f"{system_name(a, present)} and {system_name(b, present)}" for a, b in turned[:_NAMED])
    more = f" and {len(turned) - _NAMED} more" if len(turned) > _NAMED else ""
    return f"{start}the order changes, {len(turned)} of {len(pairs)} pairs of systems turn round ({names}{more})."
