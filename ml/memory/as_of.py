"""The memory as of a day, and for examples in one pass through time: nothing of a target's own day is ever seen."""

from __future__ import annotations

import datetime as dt
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ml.memory.query_memory import QueryMemory
from ml.settings import MemorySettings
from ml.tables import TABLES

_TABLE = "query_daily"


class DailyTables(Protocol):
    """What the memory needs of a warehouse: the published days of a table, and a day's rows."""

    def days(self, table: str) -> list[str]: ...

    def read(self, table: str, columns: list[str] | None = None, **levels: str) -> pa.Table: ...


def memory_as_of(warehouse: DailyTables, vectors: pa.Table, settings: MemorySettings, day: str) -> QueryMemory:
    """Return the memory of the `window_days` days that end with `day`, from the published `query_daily`."""
    walk = _Walk(warehouse, QueryMemory(vectors, settings), settings.window_days)
    walk.to(dt.date.fromisoformat(day))
    return walk.memory


def memory_for_examples(
    warehouse: DailyTables, vectors: pa.Table, settings: MemorySettings, requests: pa.Table
) -> dict[str, list[str]]:
    """Return, by example_id, the memory's products for each example's query, best first.

    `requests` has example_id, category, query (null: no products) and target_date (date32 or ISO string). One pass in
    time order: an example sees the memory as of the day before its target_date.
    """
    walk = _Walk(warehouse, QueryMemory(vectors, settings), settings.window_days)
    found: dict[str, list[str]] = {example: [] for example in requests["example_id"].to_pylist()}
    asked = requests.filter(pc.field("query").is_valid())
    asked = asked.set_column(
        asked.schema.get_field_index("target_date"), "target_date", asked["target_date"].cast(pa.date32())
    )
    dates: list[dt.date] = sorted(set(asked["target_date"].to_pylist()))
    for date in tqdm(dates, desc="query memory", unit="day", disable=None):
        walk.to(date - dt.timedelta(days=1))
        today = asked.filter(pc.field("target_date") == pa.scalar(date, pa.date32()))
        for category in sorted(set(today["category"].to_pylist())):
            rows = today.filter(pc.field("category") == category)
            products = walk.memory.lookup(category, rows["query"].to_pylist())
            found.update(zip(rows["example_id"].to_pylist(), products, strict=True))
    return found


class _Walk:
    """A memory that walks through the published days in time order, reading only days inside the window."""

    def __init__(self, warehouse: DailyTables, memory: QueryMemory, window_days: int) -> None:
        self.memory = memory
        self._warehouse = warehouse
        self._window = dt.timedelta(days=window_days)
        self._published = [dt.date.fromisoformat(day) for day in warehouse.days(_TABLE)]
        self._reached = dt.date.min

    def to(self, day: dt.date) -> None:
        """Take the memory to the end of `day`; days without a published table hold nothing."""
        if day <= self._reached:
            return
        for date in self._published:
            if max(self._reached, day - self._window) < date <= day:
                self.memory.advance(date.isoformat(), self._warehouse.read(_TABLE, date=date.isoformat()))
                self._reached = date
        if self._reached < day:
            self.memory.advance(day.isoformat(), TABLES[_TABLE].schema.empty_table())
            self._reached = day
