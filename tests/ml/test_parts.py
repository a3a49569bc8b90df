"""A night's tables read a range of customers at a time: the same rows as read whole, and never of two versions."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import HemlineError
from ml.night.parts import Part, customer_count, most_active
from ml.sequences import history_sequences
from ml.tables import TABLES
from ml.warehouse import Warehouse

DAY = "2026-03-01"
NAMES = ["", "Zoë", "ann", "bob", "bob ", "carl\n", "ähm", "日本", "'; DROP TABLE", "%", "\U0001f600", "\uffff"]
users = st.dictionaries(
    st.tuples(st.sampled_from(["Clothing", "Footwear", "other"]), st.sampled_from(NAMES)),
    st.tuples(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=4), st.integers(0, 3)),
    min_size=1,
)


def step(number, item):
    time = datetime(2026, 2, 1 + number, 12, tzinfo=UTC)
    row = {"event_time": time, "event_id": f"e{number}", "position": None}
    return row | {"action": "click" if item else "search", "item_id": item, "query": None if item else "q"}


def publish(folder, customers):
    rows = [
        {"category": category, "user_id": user, "steps": [step(n, item) for n, item in enumerate(items)],
         "item_steps": sum(item is not None for item in items), "recent_events": recent}
        for (category, user), (items, recent) in customers.items()
    ]  # fmt: skip
    warehouse = Warehouse(folder, grace_seconds=0)
    warehouse.publish("user_histories", pa.Table.from_pylist(rows, TABLES["user_histories"].schema), date=DAY)
    return warehouse


@settings(max_examples=25, deadline=None)
@given(users, st.integers(1, 4))
def test_ranges_of_customers_are_the_table(tmp_path_factory, customers, size):
    warehouse = publish(tmp_path_factory.mktemp("parts"), customers)
    part = Part.open(warehouse, "user_histories", date=DAY)
    whole = warehouse.read("user_histories", date=DAY)
    parts = list(part.customers(size))
    assert [user for users in parts for user in users] == sorted({user for _, user in customers})
    assert all(len(users) == size for users in parts[:-1])
    assert customer_count(warehouse.files("user_histories", date=DAY)) == len({user for _, user in customers})
    clothing = pc.field("category") == "Clothing"
    rows = [row for users in parts for row in part.between(users[0], users[-1], clothing).to_pylist()]
    assert rows == whole.filter(clothing).to_pylist()
    assert part.of(NAMES[:3], clothing).to_pylist() == [row for row in rows if row["user_id"] in NAMES[:3]]


@settings(max_examples=25, deadline=None)
@given(users, st.integers(0, 4), st.sets(st.sampled_from(NAMES)))
def test_the_most_active_without_an_answer_are_asked(tmp_path_factory, customers, limit, answered):
    warehouse = publish(tmp_path_factory.mktemp("parts"), customers)
    part = Part.open(warehouse, "user_histories", date=DAY)
    chosen = most_active(part, ["Clothing", "Footwear"], limit, {"Clothing": answered})
    waiting = [
        (-recent, -sum(item is not None for item in items), category, user)
        for (category, user), (items, recent) in customers.items()
        if any(items) and category != "other" and not (category == "Clothing" and user in answered)
    ]
    expected = {"Clothing": [], "Footwear": []}
    for _, _, category, user in sorted(waiting)[:limit]:
        expected[category].append(user)
    assert chosen == expected


@settings(max_examples=25, deadline=None)
@given(users)
def test_sequences_hold_the_item_steps_of_every_history_that_has_any(tmp_path_factory, customers):
    warehouse = publish(tmp_path_factory.mktemp("parts"), customers)
    data = history_sequences(Part.open(warehouse, "user_histories", date=DAY).batches(["steps"], pc.scalar(True)))
    rows = [customers[key] for key in sorted(customers)]
    expected = [[item for item in items if item] for items, _ in rows if any(items)]
    assert [[data.items[i] for i in sequence] for sequence in data.sequences] == expected
    assert data.items == sorted({item for items in expected for item in items})
    for times, (items, _) in zip(data.times, [row for row in rows if any(row[0])], strict=True):
        days = [n for n, item in enumerate(items) if item]
        noon = datetime(2026, 2, 1, 12, tzinfo=UTC).timestamp() / 86_400
        assert times.tolist() == pytest.approx([noon + day for day in days])


def test_a_partition_that_is_replaced_meanwhile_is_an_error_and_no_mixture(tmp_path):
    warehouse = publish(tmp_path, {("Clothing", "ann"): (["a"], 1)})
    part = Part.open(warehouse, "user_histories", date=DAY)
    publish(tmp_path, {("Clothing", "ann"): (["b"], 1)})
    publish(tmp_path, {("Clothing", "ann"): (["c"], 1)})  # the next writer removes the replaced files
    for read in (
        lambda: part.between("ann", "ann"),
        lambda: part.of(["ann"]),
        lambda: list(part.batches(["steps"], pc.scalar(True))),
        lambda: list(part.customers(1)),
        lambda: most_active(part, ["Clothing"], 1, {}),
    ):
        with pytest.raises(HemlineError, match=f"user_histories .*{DAY}.* was replaced while it was read"):
            read()
