"""Examples: against the rules written slowly, and what no example may ever show. Arrow only, no Spark."""

from datetime import UTC, date, datetime, timedelta
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.sequences.examples import examples_of_events, whole_customers
from ml.sequences.splits import TRAIN, leave_one_out_split, temporal_split, within_cap
from ml.sequences.visibility import CLICK, PURCHASE, SEARCH, Before, steps_before_purchases
from ml.settings import SequenceSettings
from tests.ml.sequence_rules import Event, by_example, day_of, expected_examples, logs, ordered_batches

AS_OF = date(2020, 9, 5)
FILTERS = st.sampled_from(["asof", "paper", "none"])


def made(events: list[Event], options: SequenceSettings, batch_rows: int = 10_000) -> list[dict]:
    batches = examples_of_events(iter(ordered_batches(events, batch_rows)), options, AS_OF)
    return [row for batch in batches for row in batch.to_pylist()]


@settings(max_examples=150, deadline=None)
@given(logs(), FILTERS, st.integers(1, 4), st.integers(4, 8), st.integers(1, 20))
def test_examples_follow_the_rules_whatever_the_batches(events, click_filter, min_item_steps, max_steps, batch_rows):
    options = SequenceSettings(click_filter=click_filter, min_item_steps=min_item_steps, max_steps=max_steps)
    assert by_example(made(events, options, batch_rows)) == by_example(expected_examples(events, options, AS_OF))


@settings(max_examples=60, deadline=None)
@given(logs(), st.sampled_from(["asof", "none"]), st.integers(0, 32))
def test_what_happens_later_changes_no_earlier_example(events, click_filter, hour):
    """The same log, with everything from an instant on replaced by other events, gives the same examples before it."""
    options = SequenceSettings(click_filter=click_filter, min_item_steps=1)
    cut = min(e.event_time for e in events) + timedelta(hours=3 * hour)
    past = [e for e in events if e.event_time < cut]
    future = [
        Event(f"f{i}", f"u{i % 4}", cut + timedelta(hours=i // 8), action, item, query, 1, "Clothing")
        for i in range(16)
        for action, item, query in [("click", "C0", "planted"), ("purchase", f"C{i % 5}", "planted")][i % 2 : i % 2 + 1]
    ]
    forgotten = {"temporal_split", "leave_one_out_split"}

    def before_cut(rows: list[dict]) -> dict[str, dict]:
        return by_example([{k: v for k, v in r.items() if k not in forgotten} for r in rows if r["target_time"] < cut])

    assert before_cut(made(events, options)) == before_cut(made(past + future, options))


def test_a_basket_of_one_instant_does_not_see_itself():
    moment = datetime(2020, 9, 2, tzinfo=UTC)
    events = [Event("a", "u", moment - timedelta(hours=1), "click", "seen", None, None, "Clothing")]
    events += [Event(f"b{i}", "u", moment, "purchase", f"item{i}", None, None, "Clothing") for i in range(3)]
    events.append(Event("c", "u", moment + timedelta(hours=1), "purchase", "last", None, None, "Clothing"))
    shown = {r["example_id"]: [s["item_id"] for s in r["steps"]] for r in made(events, SequenceSettings())}
    assert shown == {**{f"b{i}": ["seen"] for i in range(3)}, "c": ["seen", "item0", "item1", "item2"]}


def test_click_filters_differ_where_they_should():
    # click 7, click 8, buy 9, click 9, buy 7, buy 5, buy 8
    actions = [CLICK, CLICK, PURCHASE, CLICK, PURCHASE, PURCHASE, PURCHASE]
    items = [7, 8, 9, 9, 7, 5, 8]
    days = [1, 1, 2, 2, 2, 2, 2]

    def before(click_filter) -> list[Before]:
        options = SequenceSettings(click_filter=click_filter)
        return list(steps_before_purchases(actions, items, range(7), days, options))

    def steps(click_filter) -> dict[int, list[int]]:
        return {one.purchase: one.steps for one in before(click_filter)}

    assert steps("none") == {2: [0, 1], 4: [0, 1, 2, 3], 5: [0, 1, 2, 3, 4], 6: [0, 1, 2, 3, 4, 5]}
    assert steps("asof") == {2: [0, 1], 4: [1, 2], 5: [1, 2, 4], 6: [2, 4, 5]}
    assert steps("paper") == {2: [], 4: [2], 5: [2, 4], 6: [2, 4, 5]}
    hidden = {2: [], 4: [0], 5: [0], 6: [0, 1]}
    assert [{one.purchase: one.night_clicks for one in before(name)} for name in ("asof", "paper")] == [hidden] * 2
    assert not any(one.night_clicks for one in before("none"))


def test_the_current_query_stands_in_the_steps_and_the_purchases_own_does_not_leak():
    moment = datetime(2020, 9, 2, tzinfo=UTC)
    kinds = [("click", "a", None), ("search", None, "boots"), ("click", "b", "boots"), ("purchase", "c", "sandals")]
    events = [
        Event(f"e{i}", "u", moment + timedelta(hours=i), action, item, query, None, "Footwear")
        for i, (action, item, query) in enumerate(kinds)
    ]
    (row,) = made(events, SequenceSettings())
    assert row["query"] == "boots" and row["target_query"] == "sandals"
    (cut,) = made(events, SequenceSettings(max_steps=1, min_item_steps=1))
    assert cut["query"] is None, "a search that is cut off is not the current query"


def test_a_very_active_customer_costs_linear_time():
    count = 100_000
    actions = [(SEARCH, CLICK, CLICK, PURCHASE)[i % 4] for i in range(count)]
    items = [-1 if a == SEARCH else (i * 7919) % 30_011 for i, a in enumerate(actions)]
    days = [i // 10_000 for i in range(count)]
    started = datetime.now(UTC)
    rows = sum(1 for _ in steps_before_purchases(actions, items, range(count), days, SequenceSettings()))
    assert rows == count // 4
    assert (datetime.now(UTC) - started).total_seconds() < 20


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 7))
def test_blocks_hold_customers_whole(users, batch_rows):
    column = pa.array([f"u{u}" for u in sorted(users)], pa.string())
    table = pa.table({"category": pa.array(["c"] * len(users), pa.string()), "user_id": column})
    blocks = [block["user_id"].to_pylist() for block in whole_customers(iter(table.to_batches(batch_rows)))]
    assert list(chain.from_iterable(blocks)) == column.to_pylist()
    assert sum(len(set(block)) for block in blocks) == len(set(users))


@pytest.mark.parametrize(("validation_days", "test_days"), [(1, 1), (3, 2)])
def test_temporal_split_counts_days_back_from_as_of(validation_days, test_days):
    days = np.arange(20) + (AS_OF - date(1970, 1, 1)).days - 19
    parts = temporal_split(days, AS_OF, validation_days, test_days)
    train = 20 - validation_days - test_days
    assert parts == ["train"] * train + ["validation"] * validation_days + ["test"] * test_days


@given(st.lists(st.booleans()))
def test_leave_one_out_never_trains_on_a_later_row(eligible):
    parts = leave_one_out_split(eligible)
    assert parts == sorted(parts, key=["train", "validation", "test"].index)
    scored = [part for part, is_eligible in zip(parts, eligible, strict=True) if is_eligible]
    assert scored[-2:] == ["validation", "test"][-len(scored) :] if scored else "test" not in parts
    assert set(scored[:-2]) <= {"train"}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=25), st.integers(1, 5))
def test_the_cap_limits_training_and_leaves_what_is_reported_alone(rows, cap):
    rows.sort(key=lambda row: row[1])
    eligible = [is_eligible for is_eligible, _ in rows]
    days = np.array([(AS_OF - date(1970, 1, 1)).days - 9 + day for _, day in rows], int)
    temporal, leave_one_out = temporal_split(days, AS_OF, 1, 1), leave_one_out_split(eligible)
    kept = within_cap(eligible, temporal, leave_one_out, cap)
    for parts in (temporal, leave_one_out):
        train = [i for i, part in enumerate(parts) if part == TRAIN and eligible[i]]
        assert all(kept[i] for i, part in enumerate(parts) if part != TRAIN)
        assert all(kept[i] for i in train[-cap:])
    assert sum(kept[i] for i, part in enumerate(temporal) if part == TRAIN and eligible[i]) <= cap + 2
    assert all(kept[i] for i in range(len(rows)) if not eligible[i])


@settings(max_examples=30, deadline=None)
@given(logs())
def test_every_row_is_of_its_day(events):
    times = {e.event_id: day_of(e) for e in events}
    assert all(r["target_date"] == times[r["example_id"]] for r in made(events, SequenceSettings(min_item_steps=1)))
