"""The Spark tables of `ml.sequences` on random logs, against the rules written slowly."""

from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError
from ml.sequences import active_users, query_daily, query_title_pairs, training_sequences, user_histories
from ml.settings import SequenceSettings
from ml.tables import TABLES
from tests.ml.sequence_rules import Event, by_example, day_of, expected_examples, interactions_table, logs

AS_OF = "2020-09-04"
OPTIONS = SequenceSettings(min_item_steps=2, max_steps=6)
# Each example is a few Spark jobs, so few of them, on logs with many customers, and no shrinking.
few = settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
big_logs = logs(users=12, items=6, max_events=250)


def rows_of(frame) -> list[dict]:
    return frame.toArrow().to_pylist()


@few
@given(big_logs, st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York"]))
def test_training_sequences_follow_the_rules(spark, events, zone):
    frame = spark.createDataFrame(interactions_table(events, zone))
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 7)
    try:
        for change in ({}, {"actions": "purchases_only"}):
            options = OPTIONS.model_copy(update=change)
            found = rows_of(training_sequences(frame, options, AS_OF, zone))
            expected = expected_examples(events, options, date.fromisoformat(AS_OF), zone)
            assert by_example(found) == by_example(expected)
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")


def test_the_frame_has_the_tables_columns_and_a_planted_future_item_never_appears(spark):
    start = datetime(2020, 9, 1, 8, tzinfo=UTC)
    events = [
        Event(f"e{i:02}", "u", start + timedelta(hours=6 * i), "purchase", f"i{i}", None, None, "Clothing")
        for i in range(12)
    ]
    end = datetime(2020, 9, 4, 23, 59, tzinfo=UTC)
    planted = [
        Event("f1", "u", end + timedelta(minutes=1), "click", "planted", "planted", None, "Clothing"),
        Event("f2", "u", end + timedelta(minutes=2), "search", None, "planted", None, "Clothing"),
        Event("f3", "u", end + timedelta(minutes=3), "purchase", "planted", "planted", None, "Clothing"),
    ]
    frame = spark.createDataFrame(interactions_table([*events, *planted]))
    made = training_sequences(frame, SequenceSettings(), AS_OF, "UTC")
    assert made.columns == ["category", *TABLES["training_sequences"].names]
    found = rows_of(made)
    assert [row["item_steps"] for row in sorted(found, key=lambda r: r["example_id"])] == list(range(1, 12))
    assert "planted" not in str(found)
    assert "planted" not in str(rows_of(user_histories(frame, SequenceSettings(), AS_OF, 28)))


@few
@given(big_logs, st.sampled_from(["asof", "none"]), st.integers(1, 3))
def test_user_histories_and_active_users_follow_the_rules(spark, events, click_filter, active_days):
    frame = spark.createDataFrame(interactions_table(events))
    day = date.fromisoformat(AS_OF)
    known = [e for e in events if day_of(e) <= day]
    active = Counter(e.user_id for e in known if (day - day_of(e)).days < active_days)
    assert {r["user_id"]: r["recent_events"] for r in rows_of(active_users(frame, AS_OF, active_days))} == active
    histories: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in sorted(known, key=lambda e: e.order):
        if event.category and event.user_id in active:
            histories[event.category, event.user_id].append(event)
    expected = {}
    for (category, user), log in histories.items():
        bought = {e.item_id for e in log if e.action == "purchase"} if click_filter == "asof" else set()
        shown = [e for e in log if e.action != "click" or e.item_id not in bought][-OPTIONS.max_steps :]
        item_steps = sum(e.action != "search" for e in shown)
        expected[category, user] = [e.step for e in shown], item_steps, active[user]
    for user in set(active) - {user for _, user in histories}:
        expected["other", user] = [], 0, active[user]
    options = OPTIONS.model_copy(update={"click_filter": click_filter})
    found = user_histories(frame, options, AS_OF, active_days)
    assert found.columns == TABLES["user_histories"].names
    rows = rows_of(found)
    assert len(rows) == len(expected)
    assert {(r["category"], r["user_id"]): (r["steps"], r["item_steps"], r["recent_events"]) for r in rows} == expected


@few
@given(big_logs)
def test_query_daily_counts_what_came_from_queries(spark, events):
    expected: dict[tuple, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for e in events:
        if e.query and e.item_id:
            counts = expected[day_of(e).isoformat(), e.category, e.query, e.item_id]
            counts[0] += e.action == "click"
            counts[1] += e.action == "purchase"
            counts[2] += e.position is not None
            counts[3] += e.position or 0
    found = query_daily(spark.createDataFrame(interactions_table(events)))
    assert found.columns == ["date", *TABLES["query_daily"].names]
    assert {tuple(r.values())[:4]: list(r.values())[4:] for r in rows_of(found)} == expected


def test_a_query_without_positions_sums_to_zero(spark):
    event = Event("e", "u", datetime(2020, 9, 1, tzinfo=UTC), "click", "i", "boots", None, "Footwear")
    (row,) = rows_of(query_daily(spark.createDataFrame(interactions_table([event]))))
    assert (row["clicks"], row["purchases"], row["positions"], row["position_sum"]) == (1, 0, 0, 0)


def test_pairs_are_queries_with_the_titles_bought_from_them(spark):
    start = datetime(2020, 9, 1, 8, tzinfo=UTC)
    kinds = [
        ("search", None, "boots"),
        ("click", "a", "boots"),
        ("purchase", "a", "boots"),
        ("purchase", "b", None),  # the same visit, but not from the search
        ("purchase", "gone", "boots"),  # not in the catalogue
    ]
    events = [
        Event(f"e{i}", "u", start + timedelta(minutes=i), action, item, query, None, "Footwear")
        for i, (action, item, query) in enumerate(kinds)
    ]
    rows = training_sequences(spark.createDataFrame(interactions_table(events)), SequenceSettings(), AS_OF, "UTC")
    items = [{"item_id": i, "title": f"title {i}", "category": "Footwear", "attributes": []} for i in ("a", "b")]
    catalog = spark.createDataFrame(pa.Table.from_pylist(items, TABLES["catalog"].schema))
    pairs = query_title_pairs(rows, catalog)
    assert pairs.columns == ["category", *TABLES["query_title_pairs"].names]
    (pair,) = rows_of(pairs)
    assert (pair["event_id"], pair["query"], pair["title"]) == ("e2", "boots", "title a")
    assert pair["date"] == date(2020, 9, 1)


def test_settings_that_allow_no_example_and_days_that_are_none_are_refused(spark):
    frame = spark.createDataFrame(interactions_table([]))
    with pytest.raises(BadInputError, match="max_steps is 2"):
        training_sequences(frame, SequenceSettings(max_steps=2), AS_OF, "UTC")
    with pytest.raises(BadInputError, match="'yesterday'"):
        training_sequences(frame, SequenceSettings(), "yesterday", "UTC")
