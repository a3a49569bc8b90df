"""Customers taken out of the warehouse: every partition that holds them is published again without them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ml.people.ingestion import without_suppressed
from ml.people.suppression import Suppression
from ml.people.traces import SOURCES, Traces, rejected_rows
from ml.settings import MemorySettings
from ml.tables import TABLES
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.spark import SparkSource

REJECTED = "rejected_interactions"


def remove_from_tables(
    warehouse: Warehouse, traces: Traces, suppression: Suppression, memory: MemorySettings, spark: SparkSource
) -> dict[str, int]:
    """Return, by table, how many rows were taken out. The tables that traces are read from come last.

    Counts of searches are made anew from the others' events of those days; a search that is left in nobody's counts
    loses its vector too.
    """
    removed = {}
    for name in (*(name for name in TABLES if name not in SOURCES), *SOURCES):
        if name == "query_daily":
            removed[name] = _recount_searches(warehouse, traces, suppression, spark)
        elif name == "query_vectors":
            removed[name] = _remove(warehouse, name, "query", _in_no_counts(warehouse, traces.queries))
        elif name == "query_memory":
            removed[name] = _remember_again(warehouse, memory)
        elif name == REJECTED:
            removed[name] = _remove_rejected(warehouse, traces.users)
        elif (column := _person_column(name)) is not None:
            removed[name] = _remove(warehouse, name, column, traces.users if column == "user_id" else traces.events)
    return {name: rows for name, rows in removed.items() if rows}


def _person_column(table: str) -> str | None:
    """Return the column that says whose a row is: the customer, or the event the row is about."""
    return next((name for name in ("user_id", "example_id", "event_id") if name in TABLES[table].names), None)


def _remove(warehouse: Warehouse, table: str, column: str, values: Collection[str]) -> int:
    removed, theirs = 0, pc.field(column).isin(pa.array(sorted(values), pa.string()))
    for levels in warehouse.partitions(table):
        dataset = warehouse.dataset(table, **levels)
        found = dataset.count_rows(filter=theirs)
        if found:
            # In the order of the files, so that they hold the bytes that a publication without them would have.
            kept = dataset.to_batches(columns=TABLES[table].names, filter=~theirs, batch_readahead=1)
            warehouse.publish(table, kept, checks=(), **levels)
            removed += found
    return removed


def _remove_rejected(warehouse: Warehouse, users: Collection[str]) -> int:
    removed = 0
    for levels in warehouse.partitions(REJECTED):
        rows = warehouse.read(REJECTED, TABLES[REJECTED].names, **levels)
        theirs = rejected_rows(rows, users)
        if any(theirs):
            warehouse.publish(
                REJECTED, rows.filter(pa.array([not one for one in theirs], pa.bool_())), checks=(), **levels
            )
            removed += sum(theirs)
    return removed


def _recount_searches(warehouse: Warehouse, traces: Traces, suppression: Suppression, spark: SparkSource) -> int:
    days = sorted(day for day in traces.search_days if warehouse.exists("query_daily", date=day))
    if not days:
        return 0
    from ml.sequences import query_daily

    before = sum(warehouse.dataset("query_daily", date=day).count_rows() for day in days)
    others = without_suppressed(warehouse.frame(spark.session, "interactions", days=days), suppression)
    return before - sum(one.rows for one in warehouse.publish_days("query_daily", query_daily(others), days))


def _in_no_counts(warehouse: Warehouse, queries: Collection[str]) -> set[str]:
    """Return the searches that no day counts: others' events may be older than the `interactions` that are kept."""
    asked = pc.field("query").isin(pa.array(sorted(queries), pa.string()))
    counted = warehouse.dataset("query_daily").to_table(columns=["query"], filter=asked)["query"]
    return set(queries) - set(counted.unique().to_pylist())


def _remember_again(warehouse: Warehouse, settings: MemorySettings) -> int:
    """Make `query_memory` anew from the counts that are left, as of the day it was."""
    before = warehouse.read("query_memory")
    if not before.num_rows:
        return 0
    from ml.memory import memory_as_of

    day = before["as_of"][0].as_py()
    memory = memory_as_of(warehouse, warehouse.read("query_vectors"), settings, day)
    return before.num_rows - warehouse.publish("query_memory", memory.table(day)).rows
