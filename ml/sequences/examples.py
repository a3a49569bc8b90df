"""`training_sequences`: every purchase with the steps before it (design: sequences; paper 5.1).

Spark brings each customer's events together and in order; the walk over them (`ml.sequences.visibility`) runs in
Arrow batches of many customers, since a Python call per customer costs more than the walk itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ml.errors import BadInputError
from ml.sequences.arrays import codes, is_one_of, positions_in, run_starts
from ml.sequences.splits import leave_one_out_split, temporal_split, within_cap
from ml.sequences.steps import STEP_FIELDS, category_steps, parse_day
from ml.sequences.visibility import ACTIONS, SEARCH, steps_before_purchases
from ml.settings import SequenceSettings
from ml.tables import STEP, TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_STEPS_PER_BATCH = 200_000


def training_sequences(interactions: DataFrame, settings: SequenceSettings, as_of: str, time_zone: str) -> DataFrame:
    """Return the `training_sequences` table with its `category`, from events up to the end of the shop's day `as_of`.

    A row is a purchase with at least one click or purchase before it, by category and customer; `steps` are the
    newest `max_steps` that the click filter leaves. `eligible` rows keep at least `min_item_steps` item steps.
    `query` is the newest of the steps' searches: what the shop knew before the purchase, whether or not the purchase
    came from it; `target_query` is what the purchase itself names. Splits: `ml.sequences.splits`.

    Every category is worked out alone, so filter `interactions` by category first where only some are wanted.
    Raises BadInputError if `as_of` is no day or no example could be eligible.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    if settings.max_steps < settings.min_item_steps:
        raise BadInputError(
            f"sequences.max_steps is {settings.max_steps}, expected at least sequences.min_item_steps "
            f"({settings.min_item_steps}): no purchase could be an example"
        )
    last_day = parse_day(as_of)
    shop_day = F.to_date(F.from_utc_timestamp("event_time", time_zone))
    events = (
        category_steps(interactions, settings, as_of)
        .withColumn("shop_day", shop_day)
        .where(F.col("shop_day") <= F.lit(last_day))
        .select("category", "user_id", "shop_day", *STEP_FIELDS)
        .repartition("category", "user_id")
        .sortWithinPartitions("category", "user_id", "event_time", "event_id")
    )

    def examples(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return examples_of_events(batches, settings, last_day)

    return events.mapInArrow(examples, from_arrow_schema(_schema()))


def _schema() -> pa.Schema:
    return pa.schema([pa.field("category", pa.string()), *TABLES["training_sequences"].schema])


def examples_of_events(
    batches: Iterator[pa.RecordBatch], settings: SequenceSettings, as_of: date
) -> Iterator[pa.RecordBatch]:
    """Yield `training_sequences` rows, with `category`, from batches of events in order.

    The events have `category`, `user_id`, `shop_day` (date) and a step's columns, all rows of a (category, user) stand
    together, in order of (event_time, event_id). At most the events of one customer and one batch are held at a time.
    """
    for block in whole_customers(batches):
        yield from _examples_of_block(block, settings, as_of)


def whole_customers(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Regroup sorted batches so that each table holds all rows of the (category, user) pairs in it."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        starts = _customer_starts(pa.Table.from_batches([batch]))
        if pending and _customer(pending[-1], -1) != _customer(batch, 0):
            yield pa.Table.from_batches(pending)
            pending = []
        if len(starts) > 1:
            cut = int(starts[-1])
            yield pa.Table.from_batches([*pending, batch.slice(0, cut)])
            pending = [batch.slice(cut)]
        else:
            pending.append(batch)
    if pending:
        yield pa.Table.from_batches(pending)


def _customer(batch: pa.RecordBatch, row: int) -> tuple[object, object]:
    row %= batch.num_rows
    return batch["category"][row].as_py(), batch["user_id"][row].as_py()


def _customer_starts(events: pa.Table) -> np.ndarray:
    return np.flatnonzero(run_starts([codes(events["category"]), codes(events["user_id"])]))


@dataclass
class _Examples:
    """Examples as row numbers of a block of events, until they fill a batch."""

    targets: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0])
    clicks: list[int] = field(default_factory=list)
    click_ends: list[int] = field(default_factory=lambda: [0])
    item_steps: list[int] = field(default_factory=list)
    eligible: list[bool] = field(default_factory=list)
    temporal: list[str] = field(default_factory=list)
    leave_one_out: list[str] = field(default_factory=list)


def _examples_of_block(block: pa.Table, settings: SequenceSettings, as_of: date) -> Iterator[pa.RecordBatch]:
    columns: dict[str, pa.Array] = {name: block[name].combine_chunks() for name in block.column_names}
    actions: list[int] = positions_in(columns["action"], ACTIONS).tolist()
    items: list[int] = codes(block["item_id"]).tolist()
    times: list[int] = columns["event_time"].cast(pa.int64()).to_pylist()
    days: np.ndarray = columns["shop_day"].cast(pa.int32()).to_numpy()
    starts = _customer_starts(block)
    examples = _Examples()
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), block.num_rows], strict=True):
        own = slice(start, end)
        found = list(steps_before_purchases(actions[own], items[own], times[own], days[own].tolist(), settings))
        if not found:
            continue
        item_steps = [sum(actions[start + step] != SEARCH for step in before.steps) for before in found]
        eligible = [count >= settings.min_item_steps for count in item_steps]
        target_days = days[[start + before.purchase for before in found]]
        temporal = temporal_split(target_days, as_of, settings.validation_days, settings.test_days)
        leave_one_out = leave_one_out_split(eligible)
        kept = within_cap(eligible, temporal, leave_one_out, settings.max_examples_per_user)
        for i, (row, steps, clicks) in enumerate(found):
            if not kept[i]:
                continue
            examples.targets.append(start + row)
            examples.steps.extend([start + step for step in steps])
            examples.ends.append(len(examples.steps))
            examples.clicks.extend([start + click for click in clicks])
            examples.click_ends.append(len(examples.clicks))
            examples.item_steps.append(item_steps[i])
            examples.eligible.append(eligible[i])
            examples.temporal.append(temporal[i])
            examples.leave_one_out.append(leave_one_out[i])
            if len(examples.steps) >= _STEPS_PER_BATCH:
                yield _batch(columns, examples)
                examples = _Examples()
    if examples.targets:
        yield _batch(columns, examples)


def _batch(columns: dict[str, pa.Array], examples: _Examples) -> pa.RecordBatch:
    targets = pa.array(examples.targets, pa.int64())
    target = {name: column.take(targets) for name, column in columns.items()}
    steps = _steps(columns, examples.steps, examples.ends)
    searches = is_one_of(steps.values.field("action"), "search")
    values = {
        "category": target["category"],
        "example_id": target["event_id"],
        "user_id": target["user_id"],
        "target_item": target["item_id"],
        "target_time": target["event_time"],
        "target_date": target["shop_day"],
        "query": steps.values.field("query").take(_last_true(searches, np.array(examples.ends))),
        "target_query": target["query"],
        "steps": steps,
        "night_clicks": _steps(columns, examples.clicks, examples.click_ends),
        "item_steps": examples.item_steps,
        "eligible": examples.eligible,
        "temporal_split": examples.temporal,
        "leave_one_out_split": examples.leave_one_out,
    }
    schema = _schema()
    arrays = [pa.array(values[f.name], f.type) if isinstance(values[f.name], list) else values[f.name] for f in schema]
    return pa.RecordBatch.from_arrays([a.cast(f.type) for a, f in zip(arrays, schema, strict=True)], schema=schema)


def _steps(columns: dict[str, pa.Array], rows: list[int], ends: list[int]) -> pa.ListArray:
    """Return lists of steps: the event rows between consecutive `ends`."""
    taken = pa.array(rows, pa.int64())
    fields = [columns[field.name].take(taken).cast(field.type) for field in STEP]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.StructArray.from_arrays(fields, fields=list(STEP)))


def _last_true(flags: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Return, for each stretch of `flags` between consecutive `ends`, the index of its last true flag, or null."""
    newest = np.maximum.accumulate(np.concatenate([[-1], np.where(flags, np.arange(len(flags)), -1)]))[ends[1:]]
    return pa.array(newest, pa.int64(), mask=newest < ends[:-1])
