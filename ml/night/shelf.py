"""The items of a category that may be recommended on a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow.compute as pc

from ml.settings import Settings
from ml.warehouse import Warehouse, parquet_views


@dataclass(frozen=True)
class Shelf:
    """The items of one category that may be recommended on one day, most popular first."""

    items: list[str]
    titles: dict[str, str]

    def __contains__(self, item: str | None) -> bool:
        return item in self.titles


def shelf(settings: Settings, warehouse: Warehouse, day: str, category: str, available: dict[str, list[str]]) -> Shelf:
    """Return the available items of `category`, ordered by purchases in the active window up to `day`, then by id."""
    items = warehouse.read("catalog", ["item_id", "title", "category"])
    items = items.filter(pc.field("category") == category)
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    bought = purchase_counts(warehouse, day, settings.recommendations.active_days)
    ordered = sorted((i for i in available.get(category, []) if i in titles), key=lambda i: (-bought.get(i, 0), i))
    return Shelf(ordered, {i: titles[i] for i in ordered})


def purchase_counts(warehouse: Warehouse, day: str, window_days: int) -> dict[str, int]:
    """Return purchases per item in the `window_days` up to and including `day`."""
    first = (date.fromisoformat(day) - timedelta(days=window_days - 1)).isoformat()
    files = warehouse.files("interactions", days=(first, day))
    if not files:
        return {}
    with parquet_views(events=files) as connection:
        query = "SELECT item_id, count(*) FROM events WHERE action = 'purchase' GROUP BY item_id"
        return dict(connection.execute(query).fetchall())
