"""A few test customers of a category: what they did, what each system recommended, what they bought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from ml.report.names import in_order, system_name
from ml.warehouse import Warehouse

STEPS = 10
"""Newest steps shown."""


def customers(warehouse: Warehouse, category: str, split: str, actions: str) -> list[dict[str, Any]]:
    """Return the customers whose lists were kept: `day`, `steps`, `bought`, and per system its list, hits marked.

    Nobody's id is in it. Steps are those of the whole log, also where the systems saw purchases alone.
    """
    lists = warehouse.read("evaluation_lists", category=category)
    lists = lists.filter((pc.field("split") == split) & (pc.field("actions") == actions))
    by_example: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for row in lists.to_pylist():
        own = by_example.setdefault(row["example_id"], {})
        own.setdefault(row["system"], []).append((row["rank"], row["item_id"]))
    if not by_example:
        return []
    examples = warehouse.read("training_sequences", category=category)
    examples = examples.filter(pc.field("example_id").isin(sorted(by_example))).sort_by("example_id")
    items = warehouse.read("catalog", ["item_id", "title"])
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    return [_customer(row, by_example[row["example_id"]], titles) for row in examples.to_pylist()]


def _customer(
    row: Mapping[str, Any], lists: Mapping[str, Sequence[tuple[int, str]]], titles: Mapping[str, str]
) -> dict[str, Any]:
    present, target = set(lists), row["target_item"]

    def title(item: str) -> str:
        return titles.get(item, item)

    return {
        "day": row["target_date"].isoformat(),
        "steps": [
            {"action": step["action"], "what": step["query"] if step["action"] == "search" else title(step["item_id"])}
            for step in row["steps"][-STEPS:]
        ],
        "bought": title(target),
        "lists": [
            {
                "system": system_name(name, present),
                "items": [{"title": title(item), "hit": item == target} for _, item in sorted(lists[name])],
            }
            for name in in_order(present)
        ],
    }
