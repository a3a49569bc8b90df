"""The simulated shop's log as written by Spark: the raw contract, no leak, the same whatever the partitioning."""

import json
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ml.errors import BadInputError
from ml.simulate import simulate_shop

END, DAYS = "2026-07-14", 16
COLUMNS = ["event_id", "user_id", "session_id", "event_time", "action", "item_id", "query", "position"]
SHOP = dict(customers=70, items=160, days=DAYS, end=END, categories=["Clothing", "Luggage & Bags"], seed=3)


def read_log(out: Path) -> pd.DataFrame:
    parts = []
    for path in sorted(out.glob("interactions/*/*.parquet")):
        frame = pq.ParquetFile(path).read().to_pandas()
        parts.append(frame.assign(event_date=path.parent.name.removeprefix("event_date=")))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    out = tmp_path_factory.mktemp("shop")
    assert simulate_shop(spark, out, **SHOP, late_share=0.02, duplicate_share=0.02)
    return out


@pytest.fixture(scope="module")
def other_choices(spark, tmp_path_factory):
    """The same customers with the same needs, who choose otherwise; and Spark splits the work otherwise."""
    out = tmp_path_factory.mktemp("other")
    simulate_shop(spark, out, **SHOP, choice_seed=99, late_share=0.02, duplicate_share=0.02)
    return out


def test_the_files_are_the_raw_contract_and_nothing_else(shop):
    first = date.fromisoformat(END) - timedelta(days=DAYS - 1)
    days = [(first + timedelta(days=n)).isoformat() for n in range(DAYS)]
    found = sorted(path.relative_to(shop).as_posix() for path in shop.rglob("*") if path.is_file())
    expected = [f"interactions/event_date={day}/part-00000.parquet" for day in days]
    assert found == ["catalog.parquet", *expected, "simulation.json"]
    schema = pq.read_schema(shop / expected[0])
    assert schema.names == COLUMNS
    assert str(schema.field("event_time").type) == "timestamp[us, tz=UTC]"
    assert str(schema.field("position").type) == "int32"


def test_events_keep_the_contract(shop):
    log = read_log(shop)
    catalog = pq.read_table(shop / "catalog.parquet").to_pandas()
    search = log["action"] == "search"
    assert set(log["action"]) == {"search", "click", "purchase"}
    assert log.loc[search, "query"].notna().all() and log.loc[search, ["item_id", "position"]].isna().all(axis=None)
    assert log.loc[~search, "item_id"].isin(catalog["item_id"]).all()
    assert (log["position"].notna() == (log["query"].notna() & ~search)).all()
    assert log["position"].min() == 1
    assert (log.groupby("session_id")["user_id"].nunique() == 1).all()
    assert set(catalog["category"]) == set(SHOP["categories"])
    assert catalog["item_id"].is_unique and len(catalog) == SHOP["items"]


def test_some_events_are_late_and_some_stand_twice(shop):
    log = read_log(shop)
    day = log["event_time"].dt.strftime("%Y-%m-%d")
    late = log[day != log["event_date"]]
    assert 0.005 < len(late) / len(log) < 0.05
    assert (pd.to_datetime(late["event_date"]) - pd.to_datetime(day[late.index]) == pd.Timedelta(days=1)).all()
    again = log[log.duplicated("event_id")]
    assert 0.005 < len(again) / len(log) < 0.05
    assert log.duplicated(COLUMNS).sum() == len(again), "a repeated event_id is the same event"


def test_other_choices_change_no_search(shop, other_choices):
    """No query of any visit was phrased from what was, or would be, clicked or bought."""
    logs = [read_log(out).drop_duplicates("event_id").sort_values("event_id") for out in (shop, other_choices)]
    searches = [log.loc[log["action"] == "search", ["event_id", "user_id", "event_time", "query"]] for log in logs]
    pd.testing.assert_frame_equal(*(s.reset_index(drop=True) for s in searches))
    bought = [set(log.loc[log["action"] == "purchase", "event_id"]) for log in logs]
    assert bought[0] != bought[1]


def test_what_is_shown_knows_no_later_event(shop, other_choices):
    """Until popularity is fed back for the first time, other choices leave every result where it was."""

    def positions(out, days):
        log = read_log(out).dropna(subset=["position"])
        log = log[log["event_time"].dt.strftime("%Y-%m-%d").isin(days)]
        keys = zip(log["event_time"].dt.date, log["query"], log["position"].astype(int), strict=True)
        return dict(zip(keys, log["item_id"], strict=True))

    first = date.fromisoformat(END) - timedelta(days=DAYS - 1)
    days = [(first + timedelta(days=n)).isoformat() for n in range(DAYS)]
    ours, theirs = positions(shop, days[:7]), positions(other_choices, days[:7])
    same = ours.keys() & theirs.keys()
    assert len(same) > 20
    assert all(ours[key] == theirs[key] for key in same)
    ours, theirs = positions(shop, days[7:]), positions(other_choices, days[7:])
    assert any(ours[key] != theirs[key] for key in ours.keys() & theirs.keys()), "popularity is fed back"


def test_partitioning_changes_nothing_and_a_shop_that_is_there_is_kept(spark, shop, tmp_path, monkeypatch):
    monkeypatch.setattr("ml.simulate.log.TASK_CUSTOMERS", 9)
    simulate_shop(spark, tmp_path, **SHOP, late_share=0.02, duplicate_share=0.02)
    pd.testing.assert_frame_equal(read_log(shop), read_log(tmp_path))
    assert (shop / "catalog.parquet").read_bytes() == (tmp_path / "catalog.parquet").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not simulate_shop(spark, tmp_path, **SHOP, late_share=0.02, duplicate_share=0.02)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_other_peoples_data_is_never_replaced(spark, tmp_path):
    (tmp_path / "interactions").mkdir()
    with pytest.raises(BadInputError, match="was not simulated"):
        simulate_shop(spark, tmp_path, **SHOP)
    assert [path.name for path in tmp_path.iterdir()] == ["interactions"]


def test_a_simulated_shop_is_replaced_by_another(spark, tmp_path):
    small = {**SHOP, "customers": 3, "items": 20, "days": 2}
    (tmp_path / "simulation.json").write_text(json.dumps({"customers": 1}))
    (tmp_path / "interactions" / "event_date=2001-01-01").mkdir(parents=True)
    assert simulate_shop(spark, tmp_path, **small)
    assert sorted(path.name for path in (tmp_path / "interactions").iterdir()) == [
        "event_date=2026-07-13",
        "event_date=2026-07-14",
    ]
