"""Purchases as the night before saw them: the same as the night's own histories show."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError
from ml.fits.night_before import seen_the_night_before
from ml.sequences.examples import examples_of_events
from ml.settings import SequenceSettings
from ml.tables import TABLES
from tests.ml.sequence_rules import Event, day_of, logs, ordered_batches

AS_OF = date(2020, 9, 5)
SCHEMA = TABLES["training_sequences"].schema
UTC_ZONE = ZoneInfo("UTC")


def row_of(name, *steps, day=date(2026, 3, 2)):
    time = datetime(2026, 3, 2, 9, tzinfo=UTC)
    return {
        "example_id": name, "user_id": "u", "target_item": "t", "target_time": time, "target_date": day,
        "query": "this morning", "steps": steps, "night_clicks": [], "item_steps": 9, "eligible": False,
        "temporal_split": "test", "leave_one_out_split": "test",
    }  # fmt: skip


def step_at(time, action="click", what="a"):
    item, query = (None, what) if action == "search" else (what, None)
    return {"event_time": time, "event_id": str(time), "action": action, "item_id": item, "query": query}


def test_the_night_before_saw_nothing_of_the_day_in_the_shops_zone():
    zone = ZoneInfo("America/New_York")  # midnight is 05:00 UTC
    late, early = datetime(2026, 3, 2, 4, 59, tzinfo=UTC), datetime(2026, 3, 2, 5, tzinfo=UTC)
    rows = [
        row_of(
            "kept",
            step_at(late, "search", "evening"),
            step_at(late),
            step_at(early, "search", "morning"),
            step_at(early),
        ),
        row_of("nobody knew them", step_at(late, "search", "x"), step_at(early)),
    ]
    table = pa.Table.from_pylist(rows, schema=TABLES["training_sequences"].schema)
    (seen,) = seen_the_night_before(table, zone, 50).to_pylist()
    assert seen["example_id"] == "kept" and seen["eligible"]
    assert [step["event_time"] for step in seen["steps"]] == [late, late]
    assert (seen["query"], seen["item_steps"]) == ("evening", 1)
    assert seen["target_time"] == early


def examples_of(events: list[Event], options: SequenceSettings) -> pa.Table:
    batches = list(examples_of_events(iter(ordered_batches(events, 10_000)), options, AS_OF))
    if not batches:
        return SCHEMA.empty_table()
    return pa.Table.from_batches(batches).select(SCHEMA.names)


@settings(max_examples=150, deadline=None)
@given(logs(), st.sampled_from(["asof", "none"]))
def test_the_night_before_shows_a_purchase_what_the_nights_history_showed(events, click_filter):
    """`user_histories` as `test_sequences_spark` has it: all known clicks, but those on what was bought by then."""
    options = SequenceSettings(click_filter=click_filter, min_item_steps=1, max_steps=1000)
    seen = {
        row["example_id"]: row
        for row in seen_the_night_before(examples_of(events, options), UTC_ZONE, 1000).to_pylist()
    }
    for target in (e for e in events if e.action == "purchase" and e.category and day_of(e) <= AS_OF):
        log = [e for e in events if (e.category, e.user_id) == (target.category, target.user_id)]
        known = sorted((e for e in log if day_of(e) < day_of(target)), key=lambda e: e.order)
        bought = {e.item_id for e in known if e.action == "purchase"} if click_filter == "asof" else set()
        shown = [e.step for e in known if e.action != "click" or e.item_id not in bought]
        if any(step["item_id"] for step in shown):
            assert seen[target.event_id]["steps"] == shown
        else:
            assert target.event_id not in seen


def test_what_was_clicked_yesterday_and_bought_today_stands_in_the_nights_history():
    noon = datetime(2020, 9, 2, 12, tzinfo=UTC)
    kinds = [("click", "coat", -24), ("click", "hat", -23), ("purchase", "hat", -1), ("purchase", "coat", 0)]
    events = [
        Event(f"e{i}", "u", noon + timedelta(hours=hours), action, item, None, None, "Clothing")
        for i, (action, item, hours) in enumerate(kinds)
    ]
    table = examples_of(events, SequenceSettings())
    assert [[s["item_id"] for s in row["steps"]] for row in table.to_pylist()] == [["coat"], ["hat"]]
    for row in seen_the_night_before(table, UTC_ZONE, 50).to_pylist():
        assert [step["item_id"] for step in row["steps"]] == ["coat", "hat"]
    (newest, _) = seen_the_night_before(table, UTC_ZONE, 1).to_pylist()
    assert [step["item_id"] for step in newest["steps"]] == ["hat"]


def test_rows_of_a_version_without_night_clicks_say_what_to_do():
    old = pa.Table.from_pylist(
        [{**row_of("old", step_at(datetime(2026, 3, 1, tzinfo=UTC))), "night_clicks": None}], SCHEMA
    )
    with pytest.raises(BadInputError, match="run `hemline train`"):
        seen_the_night_before(old, UTC_ZONE, 50)
