"""Which items a shop can sell on a day, as of that day (design: who gets what)."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from ml.warehouse import Warehouse

_AVAILABLE = """
    SELECT category, list(item_id ORDER BY item_id)
    FROM catalog
    WHERE coalesce(listed_on <= $day::DATE, true)
      AND coalesce(first_seen <= $day::DATE, true)
      AND coalesce(available, item_id IN (FROM recent) OR coalesce(listed_on >= $first::DATE, false))
    GROUP BY category ORDER BY category
"""


def available_items(warehouse: Warehouse, day: str, available_days: int) -> dict[str, list[str]]:
    """Return category → sorted ids of the items available at the end of `day`.

    The catalogue's own word counts where it has one. Else an item is available if it had an event in the
    `available_days` days up to `day`, or joined the catalogue in them. Nothing after `day` is looked at: items that
    joined later, or are known only from later events, are not available whatever the catalogue says.
    """
    import duckdb

    first = (date.fromisoformat(day) - timedelta(days=available_days - 1)).isoformat()
    with duckdb.connect() as connection:
        connection.register("catalog", warehouse.read("catalog"))
        connection.register("recent", _items_with_events(warehouse, first, day))
        return dict(connection.execute(_AVAILABLE, {"first": first, "day": day}).fetchall())


def _items_with_events(warehouse: Warehouse, first: str, last: str) -> pa.Table:
    """The distinct items of clicks and purchases from day `first` to `last`, one day's events in memory at a time."""
    items: set[str] = set()
    for day in warehouse.days("interactions"):
        if first <= day <= last:
            items.update(warehouse.read("interactions", columns=["item_id"], date=day)["item_id"].unique().to_pylist())
    return pa.table({"item_id": pa.array(sorted(item for item in items if item is not None), pa.string())})
