"""Examples as plain item sequences, for models that know only items, and examples without searches and clicks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from ml.errors import BadInputError
from ml.sequences.arrays import codes, is_one_of, positions_in, run_starts
from ml.tables import STEP

_DAY = 86_400_000_000
_PARTS = {"train": ("train",), "train_validation": ("train", "validation")}


@dataclass
class ItemSequences:
    """One sequence a customer, in the order of customers' ids.

    `items` is the sorted vocabulary; `sequences` holds indices into it (int32), oldest first; `times` (float64, same
    lengths) days since 1970-01-01 UTC.
    """

    items: list[str]
    sequences: list[np.ndarray]
    times: list[np.ndarray]


def purchases_only(examples: pa.Table, min_item_steps: int) -> pa.Table:
    """Return examples as a log of purchases alone would have them: same rows and splits, other steps.

    Steps keep their purchases, without the query and position these came from; `item_steps` and `eligible` are
    counted anew; queries are null. A row may end with no step at all. Purchases older than the `max_steps` newest
    steps are not brought back. Held-out rows keep their leave-one-out part even where they are eligible no longer.
    """
    batches = [_purchases_only_batch(batch, min_item_steps) for batch in examples.to_batches()]
    return pa.Table.from_batches(batches, examples.schema)


def _purchases_only_batch(batch: pa.RecordBatch, min_item_steps: int) -> pa.RecordBatch:
    steps = batch["steps"]
    flat = steps.flatten()
    kept = is_one_of(flat.field("action"), "purchase")
    parents = steps.value_parent_indices().to_numpy()
    counts = np.bincount(parents[kept], minlength=batch.num_rows)
    purchases = flat.filter(pa.array(kept))
    nothing = {name: pa.nulls(len(purchases), STEP.field(name).type) for name in ("query", "position")}
    structs = pa.StructArray.from_arrays(
        [nothing.get(f.name, purchases.field(f.name)) for f in STEP], fields=list(STEP)
    )
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    replaced = {
        "steps": pa.ListArray.from_arrays(offsets, structs),
        "night_clicks": pa.array([[]] * batch.num_rows, batch.schema.field("night_clicks").type),
        "item_steps": pa.array(counts, pa.int32()),
        "eligible": pa.array(counts >= min_item_steps),
        "query": pa.nulls(batch.num_rows, pa.string()),
        "target_query": pa.nulls(batch.num_rows, pa.string()),
    }
    columns = [replaced.get(name, batch[name]) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def newest_rows(examples: pa.Table, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the newest purchases of each customer among the row numbers `rows`.

    Returns row numbers, by customer and then (time, event id), and for each the customer's number from 0. A customer
    has several where one basket of the same instant holds several purchases. Categories of a pooled table are apart.
    """
    names = [name for name in ("category", "user_id", "target_time", "example_id") if name in examples.column_names]
    keys = examples.select(names).take(pa.array(rows)).append_column("row", pa.array(rows))
    keys = keys.sort_by([(name, "ascending") for name in names])
    customer_columns = [codes(keys[name]) for name in names if name in ("category", "user_id")]
    starts = run_starts(customer_columns)
    instants = np.cumsum(run_starts([*customer_columns, codes(keys["target_time"])]))
    customers = np.cumsum(starts) - 1
    last_rows = np.append(np.flatnonzero(starts)[1:], len(rows))[: starts.sum()] - 1
    newest = instants == instants[last_rows][customers]
    return keys["row"].to_numpy()[newest], customers[newest]


def item_sequences(
    examples: pa.Table,
    split: Literal["temporal", "leave_one_out"],
    part: Literal["train", "train_validation"] = "train",
    vocabulary: Sequence[str] | None = None,
) -> ItemSequences:
    """Return what item models are fitted on: per customer the item steps and target of the newest row of the part.

    Eligible or not, a row counts: only its split value says whether it is in the part, and a row's steps are all
    older than its target, so nothing of a later part can be inside. Targets bought at the same instant as the newest
    are appended too, in order of their ids. Clicks on an item several times in a row stay; clicks on the newest
    row's own target are gone where the click filter dropped them. A sequence may be a single purchase.

    `vocabulary`: the items to number; others are left out of the sequences. None: the items that occur.
    Raises BadInputError for an unknown split or part.
    """
    if split not in ("temporal", "leave_one_out") or part not in _PARTS:
        raise BadInputError(f"split {split!r}, part {part!r}: expected temporal or leave_one_out, and {list(_PARTS)}")
    in_part = is_one_of(examples[f"{split}_split"], *_PARTS[part])
    rows, customers = newest_rows(examples, np.flatnonzero(in_part))
    items, times, owners = _flat_items(examples, rows, customers)
    known = sorted(set(vocabulary)) if vocabulary is not None else sorted(items.unique().to_pylist())
    indices = positions_in(items, known)
    kept = indices >= 0
    indices, times, owners = indices[kept], times[kept], owners[kept]
    cuts = np.flatnonzero(run_starts([owners]))[1:]
    if not len(indices):
        return ItemSequences(known, [], [])
    return ItemSequences(known, np.split(indices, cuts), np.split(times, cuts))


def history_sequences(histories: Iterable[pa.RecordBatch]) -> ItemSequences:
    """Return the item steps of `user_histories` batches (`steps`) as sequences, one a row that has any.

    What is held grows by twelve bytes a step, not by what a step says.
    """
    seen: dict[str, int] = {}  # in order of first sight
    sequences: list[np.ndarray] = []
    times: list[np.ndarray] = []
    for batch in histories:
        flat = batch["steps"].flatten()
        of_item = flat.field("item_id").is_valid()
        found = flat.field("item_id").filter(of_item).dictionary_encode()
        numbers = np.array([seen.setdefault(item, len(seen)) for item in found.dictionary.to_pylist()], np.int32)
        when = flat.field("event_time").filter(of_item).cast(pa.int64()).to_numpy() / _DAY
        owners = batch["steps"].value_parent_indices().filter(of_item).to_numpy()
        if len(owners):
            cuts = np.flatnonzero(run_starts([owners]))[1:]
            sequences += np.split(numbers[found.indices.to_numpy()], cuts)
            times += np.split(when, cuts)
    items = sorted(seen)
    place = np.empty(len(items), np.int32)
    place[[seen[item] for item in items]] = np.arange(len(items), dtype=np.int32)
    return ItemSequences(items, [place[sequence] for sequence in sequences], times)


def _flat_items(
    examples: pa.Table, rows: np.ndarray, customers: np.ndarray
) -> tuple[pa.ChunkedArray, np.ndarray, np.ndarray]:
    """Return item ids, times in days and customers' numbers of all sequences, one after the other."""
    steps_of = np.diff(customers, append=-1) != 0
    with_steps = examples.select(["steps"]).take(pa.array(rows[steps_of]))
    items: list[pa.Array] = []
    times: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    first = 0
    for batch in with_steps.to_batches():
        flat = batch["steps"].flatten()
        is_item = pa.array(is_one_of(flat.field("action"), "click", "purchase"))
        parents = batch["steps"].value_parent_indices().filter(is_item).to_numpy()
        items.append(flat.field("item_id").filter(is_item))
        times.append(flat.field("event_time").filter(is_item).cast(pa.int64()).to_numpy())
        owners.append(customers[steps_of][first + parents])
        first += batch.num_rows
    targets = examples.select(["target_item", "target_time"]).take(pa.array(rows))
    items.extend(targets["target_item"].chunks)
    times.append(targets["target_time"].cast(pa.int64()).to_numpy())
    owners.append(customers)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    joined = pa.chunked_array(items, pa.string()).take(pa.array(order))
    return joined, np.concatenate(times)[order] / _DAY, owner[order]
