"""The query-product memory: what the window holds, how products are ranked, which queries are near (paper 4.2)."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError
from ml.memory import QueryMemory, memory_as_of, memory_for_examples
from ml.settings import MemorySettings
from ml.tables import TABLES
from ml.warehouse import Warehouse

QUERIES = ["black dress", "dark dress", "red shoes", "sandals"]
ANGLES = {"black dress": 0.0, "dark dress": 0.3, "red shoes": 1.2, "sandals": 1.5}
FIRST = dt.date(2024, 3, 1)


def day(number):
    return (FIRST + dt.timedelta(days=number)).isoformat()


def vectors(angles=None):
    rows = [
        {"encoder": "tiny", "query": query, "vector": [np.cos(angle), np.sin(angle)]}
        for query, angle in (angles or ANGLES).items()
    ]
    other = [{"encoder": "other", "query": "black dress", "vector": [1.0, 2.0, 3.0]}]
    return pa.Table.from_pylist(other + rows, TABLES["query_vectors"].schema)


def daily(*rows):
    """query_daily of (category, query, item, clicks, purchases, positions, position_sum)."""
    names = TABLES["query_daily"].names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], TABLES["query_daily"].schema)


def memory_settings(**changes):
    return MemorySettings(**({"encoder": "tiny", "queries": 2, "products": 3, "window_days": 3} | changes))


def memory(*days, **changes):
    made = QueryMemory(vectors(), memory_settings(**changes))
    for number, table in enumerate(days):
        made.advance(day(number), table)
    return made


def test_products_by_position_then_purchases_then_clicks_then_id():
    table = daily(
        ("C", "sandals", "unknown", 9, 9, 0, 0),
        ("C", "sandals", "third", 9, 9, 1, 3),
        ("C", "sandals", "few clicks", 1, 1, 2, 4),
        ("C", "sandals", "b", 2, 1, 2, 4),
        ("C", "sandals", "a", 2, 1, 2, 4),
        ("C", "sandals", "bought", 0, 2, 2, 4),
        ("C", "sandals", "first", 1, 0, 2, 3),
    )
    found = memory(table, products=7, queries=1).lookup("C", ["sandals"])
    assert found == [["first", "bought", "a", "b", "few clicks", "third", "unknown"]]


def test_a_mean_position_is_over_the_whole_window():
    made = memory(
        daily(("C", "sandals", "x", 1, 0, 1, 1), ("C", "sandals", "y", 1, 0, 1, 2)),
        daily(("C", "sandals", "x", 3, 0, 3, 30)),
    )
    assert made.lookup("C", ["sandals"]) == [["y", "x"]]
    assert made.table(day(1)).to_pylist() == [
        {
            "as_of": day(1), "category": "C", "query": "sandals", "items": ["y", "x"], "mean_positions": [2.0, 7.75],
            "clicks": [1, 4], "purchases": [0, 0],
        }
    ]  # fmt: skip


def test_the_nearest_queries_products_follow_without_repeats():
    table = daily(
        ("C", "black dress", "a", 1, 0, 1, 1),
        ("C", "black dress", "b", 1, 0, 1, 2),
        ("C", "dark dress", "b", 1, 0, 1, 1),
        ("C", "dark dress", "c", 1, 0, 1, 2),
        ("C", "red shoes", "d", 1, 0, 1, 1),
        ("D", "black dress", "elsewhere", 1, 0, 1, 1),
    )
    made = memory(table)
    assert made.lookup("C", ["black dress", "dark dress", "sandals"]) == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["d", "b", "c"],
    ]
    assert made.lookup("D", ["sandals", "", None, "sandals"]) == [["elsewhere"], [], [], ["elsewhere"]]
    assert made.lookup("unknown category", ["sandals"]) == [[]]


def test_a_query_is_its_own_nearest_even_among_equal_vectors():
    names = [f"q{n:02}" for n in range(40)]
    made = QueryMemory(vectors(dict.fromkeys(names, 0.5)), memory_settings())
    made.advance(day(0), daily(*(("C", name, f"of {name}", 1, 0, 1, 1) for name in names)))
    assert made.lookup("C", names[30:32]) == [["of q30", "of q00"], ["of q31", "of q00"]]


def test_a_day_leaves_when_the_window_has_passed_it():
    made = memory(daily(("C", "sandals", "old", 1, 0, 1, 1)), daily(), daily())
    assert made.lookup("C", ["sandals"]) == [["old"]]
    made.advance(day(3), daily(("C", "red shoes", "new", 1, 0, 1, 1)))
    assert made.lookup("C", ["sandals"]) == [["new"]]
    made.advance(day(9), daily())
    assert made.lookup("C", ["sandals"]) == [[]]
    assert made.table(day(9)).num_rows == 0


def test_days_must_be_added_in_order():
    made = memory(daily())
    with pytest.raises(BadInputError, match="does not follow"):
        made.advance(day(0), daily())


def test_a_query_without_a_vector_is_named():
    made = memory(daily(("C", "sandals", "x", 1, 0, 1, 1)))
    with pytest.raises(BadInputError, match=r"'blue hat'.*append their vectors"):
        made.lookup("C", ["blue hat"])


COUNTS = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3), st.integers(1, 9))
ROW = st.tuples(st.sampled_from("CD"), st.sampled_from(QUERIES), st.sampled_from("abcd"))
DAYS = st.lists(st.dictionaries(ROW, COUNTS, max_size=6), min_size=1, max_size=9)


@given(days=DAYS, window=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_walking_through_the_days_equals_starting_from_scratch(days, window):
    tables = [daily(*((*key, *counts) for key, counts in rows.items())) for rows in days]
    walking = memory(window_days=window)
    for number, table in enumerate(tables):
        walking.advance(day(number), table)
        scratch = memory(window_days=window)
        for earlier in range(max(0, number - window + 1), number + 1):
            scratch.advance(day(earlier), tables[earlier])
        assert walking.table(day(number)).equals(scratch.table(day(number)))
        for category in "CD":
            assert walking.lookup(category, QUERIES) == scratch.lookup(category, QUERIES)


@pytest.fixture
def warehouse(tmp_path):
    """Days 0, 1, 2 and 6; on each day an item that nobody saw before."""
    made = Warehouse(tmp_path)
    for number in (0, 1, 2, 6):
        made.publish("query_daily", daily(("C", "sandals", f"new{number}", 1, 0, 1, 10 - number)), date=day(number))
    return made


def requests(*rows):
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(("example_id", "category", "query"))})
    return table.append_column("target_date", pa.array([FIRST + dt.timedelta(days=row[3]) for row in rows]))


def test_an_example_sees_the_window_before_its_day_and_nothing_of_its_day_or_later(warehouse):
    rows = [(f"x{number}", "C", "sandals", number) for number in (7, 0, 1, 3, 2, 6, 5, 20)]
    found = memory_for_examples(warehouse, vectors(), memory_settings(), requests(*rows, ("none", "C", None, 3)))
    assert found == {
        "x0": [],
        "x1": ["new0"],
        "x2": ["new1", "new0"],
        "x3": ["new2", "new1", "new0"],
        "x5": ["new2"],
        "x6": [],
        "x7": ["new6"],
        "x20": [],
        "none": [],
    }


def test_examples_see_what_the_memory_of_the_day_before_holds(warehouse):
    for number in range(1, 9):
        found = memory_for_examples(warehouse, vectors(), memory_settings(), requests(("x", "C", "sandals", number)))
        as_of = memory_as_of(warehouse, vectors(), memory_settings(), day(number - 1))
        assert found == {"x": as_of.lookup("C", ["sandals"])[0]}


def test_an_empty_log_of_searches_has_an_empty_memory(tmp_path):
    empty = TABLES["query_vectors"].schema.empty_table()
    found = memory_for_examples(Warehouse(tmp_path), empty, memory_settings(), requests(("x", "C", "sandals", 3)))
    assert found == {"x": []}
    assert memory_as_of(Warehouse(tmp_path), empty, memory_settings(), day(3)).table(day(3)).num_rows == 0
