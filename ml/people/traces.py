"""What Hemline knows customers by: their events' and sessions' ids, the days and categories, searches only they made.

Found in the tables that are cleaned last, so that a removal that was killed finds the same again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from ml.people.scrub import Scrub
from ml.people.suppression import values_of
from ml.warehouse import Warehouse

SOURCES = ("user_histories", "training_sequences", "rejected_interactions", "interactions")
"""The tables that traces are read from, in the order in which they are cleaned."""


@dataclass
class Traces:
    """What names `users`; `queries` are the searches that nobody else made, `days` those with their events.

    `search_days` are the days whose `query_daily` counts an event of theirs, `purchases` the category and day of each
    row of `training_sequences`, `bought` the items they bought.
    """

    users: frozenset[str]
    events: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    queries: set[str] = field(default_factory=set)
    days: set[str] = field(default_factory=set)
    search_days: set[str] = field(default_factory=set)
    purchases: set[tuple[str, date]] = field(default_factory=set)
    bought: set[str] = field(default_factory=set)
    categories: set[str] = field(default_factory=set)

    @property
    def scrub(self) -> Scrub:
        """What takes them out of free text."""
        return Scrub({*self.users, *self.events, *self.sessions}, self.queries)


def find_traces(warehouse: Warehouse, users: Collection[str]) -> Traces:
    """Return what the published tables know `users` by."""
    traces = Traces(frozenset(users))
    _from_interactions(warehouse, traces)
    _from_rejects(warehouse, traces)
    _from_sequences(warehouse, traces)
    _from_histories(warehouse, traces)
    traces.queries -= _made_by_others(warehouse, traces)
    return traces


def rejected_rows(rows: pa.Table, users: Collection[str]) -> list[bool]:
    """Return of each row of `rejected_interactions` whether it is of one of `users` or a broken line that names one."""
    return [_is_of(row, users) for row in rows["row"].to_pylist()]


def _is_of(row: str, users: Collection[str]) -> bool:
    values = json.loads(row)
    line = values.get("line")
    return values.get("user_id") in users or (line is not None and not values_of(line).isdisjoint(users))


def _own(warehouse: Warehouse, table: str, columns: list[str], users: Collection[str]) -> Iterator[dict]:
    theirs = pc.field("user_id").isin(pa.array(sorted(users), pa.string()))
    for batch in warehouse.dataset(table).to_batches(columns=columns, filter=theirs):
        yield from batch.to_pylist()


def _from_interactions(warehouse: Warehouse, traces: Traces) -> None:
    columns = ["event_id", "session_id", "action", "item_id", "query", "query_original", "category", "date"]
    for row in _own(warehouse, "interactions", columns, traces.users):
        traces.events.add(row["event_id"])
        traces.sessions |= _known(row["session_id"])
        traces.queries |= _known(row["query"], row["query_original"])
        traces.days.add(row["date"])
        traces.categories |= _known(row["category"])
        if row["query"] is not None and row["item_id"] is not None:
            traces.search_days.add(row["date"])
        if row["action"] == "purchase":
            traces.bought |= _known(row["item_id"])


def _from_rejects(warehouse: Warehouse, traces: Traces) -> None:
    for levels in warehouse.partitions("rejected_interactions"):
        rows = warehouse.read("rejected_interactions", ["event_id", "row"], **levels)
        for row, theirs in zip(rows.to_pylist(), rejected_rows(rows, traces.users), strict=True):
            if theirs:
                values = json.loads(row["row"])
                traces.events |= _known(row["event_id"], values.get("event_id"))
                traces.sessions |= _known(values.get("session_id"))
                traces.queries |= _known(values.get("query"))
                traces.days.add(levels["date"])


def _from_sequences(warehouse: Warehouse, traces: Traces) -> None:
    columns = ["example_id", "target_item", "target_date", "steps", "query", "target_query", "category"]
    for row in _own(warehouse, "training_sequences", columns, traces.users):
        traces.events.add(row["example_id"])
        traces.purchases.add((row["category"], row["target_date"]))
        traces.bought.add(row["target_item"])
        traces.queries |= _known(row["query"], row["target_query"])
        _add_steps(traces, row["steps"])


def _from_histories(warehouse: Warehouse, traces: Traces) -> None:
    for row in _own(warehouse, "user_histories", ["category", "steps"], traces.users):
        traces.categories |= _known(row["category"])
        _add_steps(traces, row["steps"])


def _add_steps(traces: Traces, steps: Iterable[dict]) -> None:
    for step in steps:
        traces.events.add(step["event_id"])
        traces.queries |= _known(step["query"])


def _made_by_others(warehouse: Warehouse, traces: Traces) -> set[str]:
    """Return which of the searches somebody else has made too, as they stand normalised or as they were written."""
    found: set[str] = set()
    users = pa.array(sorted(traces.users), pa.string())
    for name in ("query", "query_original"):
        asked = pc.field(name).isin(pa.array(sorted(traces.queries), pa.string()))
        dataset = warehouse.dataset("interactions")
        for batch in dataset.to_batches(columns=[name], filter=asked & ~pc.field("user_id").isin(users)):
            found |= {value for value in batch.column(0).unique().to_pylist() if value is not None}
    return found


def _known(*values: str | None) -> set[str]:
    return {value for value in values if value}
