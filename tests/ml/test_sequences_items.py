"""Item sequences, purchases only, and Table 1, from example tables."""

import time
from datetime import UTC, date, datetime
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError
from ml.sequences import dataset_statistics, item_sequences, purchases_only
from ml.sequences.examples import examples_of_events
from ml.settings import SequenceSettings
from ml.tables import STEP, TABLES
from tests.ml.sequence_rules import Event, expected_examples, logs, ordered_batches

AS_OF = date(2020, 9, 5)
OPTIONS = SequenceSettings(min_item_steps=2)
SCHEMA = pa.schema([pa.field("category", pa.string()), *TABLES["training_sequences"].schema])
PARTS = {"train": {"train"}, "train_validation": {"train", "validation"}}


def examples(events: list[Event], options: SequenceSettings = OPTIONS) -> pa.Table:
    batches = examples_of_events(iter(ordered_batches(events, 17)), options, AS_OF)
    return pa.Table.from_batches(list(batches), SCHEMA)


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    """The rows in another order and in several chunks: no function may rely on either."""
    order = np.random.default_rng(seed).permutation(table.num_rows)
    mixed = table.take(pa.array(order))
    half = mixed.num_rows // 2
    return pa.concat_tables([mixed.slice(0, half), mixed.slice(half)])


def expected_sequences(rows: list[dict], split: str, part: str) -> list[list[str]]:
    result = {}
    for row in sorted(rows, key=lambda r: (r["category"], r["user_id"], r["target_time"], r["example_id"])):
        if row[f"{split}_split"] not in PARTS[part]:
            continue
        customer = row["category"], row["user_id"]
        steps = [s["item_id"] for s in row["steps"] if s["action"] != "search"]
        basket = []
        if customer in result and result[customer][0] == row["target_time"]:
            basket = result[customer][2]
        result[customer] = row["target_time"], steps, [*basket, row["target_item"]]
    return [steps + basket for _, steps, basket in result.values()]


@settings(max_examples=80, deadline=None)
@given(logs(), st.sampled_from(["temporal", "leave_one_out"]), st.sampled_from(list(PARTS)), st.integers(0, 5))
def test_item_sequences_follow_the_rules(events, split, part, seed):
    rows = expected_examples(events, OPTIONS, AS_OF)
    data = item_sequences(shuffled(examples(events), seed), split, part)
    named = [[data.items[i] for i in sequence] for sequence in data.sequences]
    assert named == expected_sequences(rows, split, part)
    assert data.items == sorted({item for sequence in named for item in sequence})
    for sequence, times in zip(data.sequences, data.times, strict=True):
        assert sequence.dtype == np.int32 and times.dtype == np.float64 and len(times) == len(sequence)
        assert (np.diff(times) >= 0).all()


@settings(max_examples=80, deadline=None)
@given(logs(), st.sampled_from(["temporal", "leave_one_out"]), st.sampled_from(list(PARTS)))
def test_no_item_from_after_the_cut_is_in_a_training_sequence(events, split, part):
    """Every event gets an item of its own; those of the customer's later parts must not come up in fitting."""
    events = [
        Event(e.event_id, e.user_id, e.event_time, e.action, e.item_id and e.event_id, e.query, None, e.category)
        for e in events
    ]
    table = examples(events)
    held_out = [row for row in table.to_pylist() if row[f"{split}_split"] not in PARTS[part]]
    first: dict[tuple[str | None, str], tuple] = {}
    for row in held_out:
        customer, key = (row["category"], row["user_id"]), (row["target_time"], row["example_id"])
        first[customer] = min(first.get(customer, key), key)
    later = {e.item_id for e in events if (c := (e.category, e.user_id)) in first and e.order >= first[c]}
    assert not later & set(item_sequences(table, split, part).items)


def test_a_vocabulary_decides_the_numbers_and_leaves_others_out():
    moment = datetime(2020, 9, 1, tzinfo=UTC)
    step = {"event_time": moment, "event_id": "s", "action": "click"}
    row = {"user_id": "u", "example_id": "x", "target_item": "b", "target_time": moment, "temporal_split": "train"}
    rows = [{**row, "steps": [{**step, "item_id": item} for item in ("a", "unknown")]}]
    table = pa.Table.from_pylist(rows, TABLES["training_sequences"].schema)
    data = item_sequences(table, "temporal", vocabulary=["c", "b", "a"])
    assert data.items == ["a", "b", "c"]
    assert [s.tolist() for s in data.sequences] == [[0, 1]]


def test_an_empty_table_has_no_sequences_and_an_unknown_part_is_refused():
    table = TABLES["training_sequences"].schema.empty_table()
    assert item_sequences(table, "temporal").sequences == []
    assert dataset_statistics(table)["users"] == 0
    assert purchases_only(table, 3).num_rows == 0
    with pytest.raises(BadInputError, match="part 'test'"):
        item_sequences(table, "temporal", "test")  # pyright: ignore[reportArgumentType]


@settings(max_examples=50, deadline=None)
@given(logs(), st.integers(1, 4), st.integers(0, 5))
def test_purchases_only_shows_purchases_and_nothing_of_searches(events, min_item_steps, seed):
    table = shuffled(examples(events), seed)
    result = purchases_only(table, min_item_steps)
    result.validate(full=True)
    assert result.schema == table.schema
    for old, new in zip(table.to_pylist(), result.to_pylist(), strict=True):
        bought = [{**s, "query": None, "position": None} for s in old["steps"] if s["action"] == "purchase"]
        changed = {"steps": bought, "item_steps": len(bought), "eligible": len(bought) >= min_item_steps}
        assert new == {**old, **changed, "night_clicks": [], "query": None, "target_query": None}


@settings(max_examples=40, deadline=None)
@given(logs())
def test_table_1_counts_each_customers_newest_example(events):
    rows = [
        row for row in expected_examples(events, OPTIONS, AS_OF) if row["eligible"] and row["category"] == "Clothing"
    ]
    table = examples([e for e in events if e.category == "Clothing"])
    found = dataset_statistics(table)
    sequences = expected_sequences([{**row, "temporal_split": "train"} for row in rows], "temporal", "train")
    bought_or_clicked = list(chain.from_iterable(sequences))
    users, items, interactions = len(sequences), len(set(bought_or_clicked)), len(bought_or_clicked)
    assert (found["users"], found["items"], found["interactions"]) == (users, items, interactions)
    if users:
        assert found["average_length"] == pytest.approx(interactions / users)
        assert found["density"] == pytest.approx(interactions / (users * items))


def test_two_hundred_thousand_rows_take_seconds():
    users = np.repeat(np.arange(50_000), 4)
    moments = pa.array(np.arange(200_000) * 10**9, pa.int64()).cast(
        TABLES["training_sequences"].schema.field("target_time").type
    )
    step_of = pa.array(np.repeat(np.arange(200_000), 5))
    names = pa.array([f"i{i % 5000}" for i in range(200_000)])
    structs = pa.StructArray.from_arrays(
        [moments.take(step_of), names.take(step_of), pa.array(["click"] * 10**6), names.take(step_of),
         pa.nulls(10**6, pa.string()), pa.nulls(10**6, pa.int32())],
        fields=list(STEP),
    )  # fmt: skip
    table = pa.table(
        {
            "example_id": pa.array([f"e{i:06}" for i in range(200_000)]),
            "user_id": pa.array([f"u{u:05}" for u in users]),
            "target_item": names,
            "target_time": moments,
            "steps": pa.ListArray.from_arrays(pa.array(np.arange(0, 10**6 + 1, 5), pa.int32()), structs),
            "temporal_split": pa.array(["train"] * 200_000),
        }
    )
    started = time.perf_counter()
    data = item_sequences(table, "temporal")
    assert time.perf_counter() - started < 10
    assert len(data.sequences) == 50_000 and {len(s) for s in data.sequences} == {6}
