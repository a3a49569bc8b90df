"""Yesterday's table against today's purchases, with numbers worked out by hand."""

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError
from ml.evaluation import realised
from ml.settings import EvaluationSettings
from ml.tables import TABLES

SETTINGS = EvaluationSettings(resamples=200)


def lists(**customers):
    rows = [
        {"user_id": user, "rank": rank, "item_id": item, "source": source}
        for user, (source, items) in customers.items()
        for rank, item in enumerate(items, start=1)
    ]
    schema = pa.schema(
        [("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("source", pa.string())]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def bought(*pairs):
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string())])
    return pa.Table.from_pylist([{"user_id": u, "item_id": i} for u, i in pairs], schema=schema)


def values(table, source):
    return {row["metric"]: row for row in table.to_pylist() if row["source"] == source}


def test_metrics_by_hand():
    table = lists(
        one=("language_model", "abcd"), two=("popular", "wxyz"), idle=("popular", "wxyz"), none=("popular", "abcd")
    )
    purchases = bought(
        ("one", "b"), ("one", "b"), ("one", "q"), ("one", "d"), ("two", "w"), ("none", "q"), ("stranger", "a")
    )
    rows = realised(table, purchases, SETTINGS, 4, "Footwear")
    assert rows.schema.equals(TABLES["realised"].schema)
    model = values(rows, "language_model")
    # bought b, q and d; b stands second and d fourth
    assert model["recall"]["value"] == pytest.approx(2 / 3)
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    assert model["ndcg"]["value"] == pytest.approx(gain / (1 + 1 / math.log2(3) + 1 / math.log2(4)))
    assert model["mrr"]["value"] == pytest.approx(0.5)
    assert model["mrr"]["low"] is None, "one customer has no interval"
    assert values(rows, "popular")["recall"]["value"] == pytest.approx(0.5)
    everyone = values(rows, "all")
    assert everyone["recall"]["value"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert {row["customers"] for row in everyone.values()} == {3}
    assert {row["buyers"] for row in rows.to_pylist()} == {4}
    assert {row["category"] for row in rows.to_pylist()} == {"Footwear"}


def test_only_the_first_k_count_and_recall_can_reach_1():
    table = lists(one=("retrieval", "abc"))
    assert values(realised(table, bought(("one", "c")), SETTINGS, 2, "X"), "all")["recall"]["value"] == 0
    purchases = bought(*[("one", item) for item in "abc"])
    assert values(realised(table, purchases, SETTINGS, 2, "X"), "all")["recall"]["value"] == 1
    assert values(realised(table, purchases, SETTINGS, 2, "X"), "all")["ndcg"]["value"] == pytest.approx(1)


def test_a_day_without_buyers_or_lists_gives_nulls():
    for table, purchases, buyers in (
        (lists(one=("popular", "ab")), bought(), 0),
        (lists(), bought(("one", "a")), 1),
    ):
        rows = realised(table, purchases, SETTINGS, 10, "X").to_pylist()
        assert [(row["source"], row["value"], row["customers"], row["buyers"]) for row in rows] == [
            ("all", None, 0, buyers)
        ] * 3


def test_the_category_is_read_from_its_column_or_must_be_given():
    table = lists(one=("popular", "ab"))
    with_column = table.append_column("category", pa.array(["Footwear"] * 2))
    assert set(realised(with_column, bought(("one", "a")), SETTINGS, 2)["category"].to_pylist()) == {"Footwear"}
    with pytest.raises(BadInputError, match="category"):
        realised(table, bought(), SETTINGS, 2)


@given(
    st.dictionaries(st.sampled_from("uvw"), st.permutations("abcdef"), max_size=3),
    st.lists(st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcdefg")), max_size=12),
    st.integers(1, 7),
)
@settings(max_examples=50, deadline=None)
def test_metrics_stay_in_range_whatever_is_bought(ranked, purchases, k):
    table = lists(**{user: ("popular", items) for user, items in ranked.items()})
    shuffled = table.take(pa.array(range(table.num_rows)[::-1], pa.int64()))
    rows = realised(table, bought(*purchases), SETTINGS, k, "X").to_pylist()
    for row in rows:
        assert row["value"] is None or 0 <= row["value"] <= 1
        assert row["customers"] == len({user for user, _ in purchases} & set(ranked))
    assert rows == realised(shuffled, bought(*purchases[::-1]), SETTINGS, k, "X").to_pylist()
