"""Customers taken out of published tables, and the locks that keep writers apart meanwhile."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from people_shop import CANARY, OTHER, table

from ml.people.suppression import add
from ml.people.tables import _remove, remove_from_tables
from ml.people.traces import find_traces
from ml.sequences import query_daily
from ml.settings import MemorySettings, SparkSettings
from ml.spark import SparkSource
from ml.tables import TABLES
from ml.warehouse import Warehouse

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]


def lists(users):
    """Lists of two items for each of `users`."""
    rows = [
        {"user_id": user, "rank": rank, "item_id": f"i{rank}", "score": 1.0 / rank, "source": "popular",
         "part": "popular", "listed_on": DAYS[0], "model_from_future": False}
        for user in users for rank in (1, 2)
    ]  # fmt: skip
    schema = TABLES["recommendations"].schema
    return pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in rows], schema)


@pytest.fixture
def warehouse(tmp_path):
    made = Warehouse(tmp_path / "warehouse", grace_seconds=0)
    for day, users in zip(DAYS, (["a", "b", "c"], ["a", "c"], ["b"]), strict=True):
        made.publish("recommendations", lists(users), date=day, category="Luggage & Bags")
    return made


def test_partitions_that_hold_them_become_what_they_would_have_been_and_others_are_not_touched(warehouse, tmp_path):
    plain = Warehouse(tmp_path / "plain")
    for day, users in zip(DAYS, (["a", "c"], ["a", "c"], []), strict=True):
        plain.publish("recommendations", lists(users), date=day, category="Luggage & Bags")
    untouched = next(Path(warehouse.location("recommendations", date=DAYS[1], category="Luggage & Bags")).iterdir())
    written = untouched.stat().st_mtime_ns
    assert _remove(warehouse, "recommendations", "user_id", {"b", "z"}) == 4
    assert warehouse.content("recommendations") == plain.content("recommendations"), "names are hashes of the bytes"
    assert untouched.stat().st_mtime_ns == written
    assert _remove(warehouse, "recommendations", "user_id", {"b", "z"}) == 0, "said twice, done once"
    assert warehouse.days("recommendations") == DAYS, "a partition that held nobody else is empty, not gone"


def test_a_reader_in_a_loop_sees_a_partition_with_them_or_without(warehouse):
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            rows = warehouse.read("recommendations", ["user_id"], date=DAYS[0], category="Luggage & Bags")
            seen.add(tuple(sorted(rows["user_id"].to_pylist())))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        _remove(warehouse, "recommendations", "user_id", {"b"})
        warehouse.publish("recommendations", lists(["a", "b", "c"]), date=DAYS[0], category="Luggage & Bags")
    stop.set()
    reader.join()
    assert seen <= {("a", "a", "b", "b", "c", "c"), ("a", "a", "c", "c")}


def test_old_versions_and_leftovers_of_killed_writers_are_off_the_disk(warehouse):
    dead = warehouse.root / "_staging" / "recommendations" / "1-1-dead"
    dead.mkdir(parents=True)
    (dead / "rows").write_text("b")
    _remove(warehouse, "recommendations", "user_id", {"b"})
    warehouse.clear()
    assert not [path for path in (warehouse.root / "_staging").rglob("*") if path.is_file()]


def test_no_step_goes_on_while_someone_is_forgotten_and_steps_go_on_side_by_side(warehouse):
    order, inside, waits = [], threading.Event(), []

    def forget():
        with warehouse.no_steps(lambda: (waits.append("forget"), inside.set())):
            order.append("forgotten")

    with warehouse.step("one"), warehouse.step("two"):
        thread = threading.Thread(target=forget)
        thread.start()
        assert inside.wait(10)
        order.append("steps")
    thread.join(10)
    assert order == ["steps", "forgotten"] and waits == ["forget"]

    begun = threading.Event()

    def step():
        with warehouse.step("one", begun.set):
            order.append("step")

    with warehouse.no_steps():
        thread = threading.Thread(target=step)
        thread.start()
        assert begun.wait(10)
        order.append("still alone")
    thread.join(10)
    assert order[2:] == ["still alone", "step"]


def test_a_partition_of_several_row_groups_keeps_its_order(warehouse, monkeypatch):
    monkeypatch.setattr("ml.warehouse.contents.ROW_GROUP", 7)
    users = [f"u{number:03}" for number in range(50)]
    warehouse.publish("recommendations", lists(users), date=DAYS[0], category="x")
    assert _remove(warehouse, "recommendations", "user_id", {"u013", "u014"}) == 4
    left = warehouse.read("recommendations", ["user_id", "rank"], date=DAYS[0], category="x")
    assert left["user_id"].to_pylist() == [user for user in users if user not in ("u013", "u014") for _ in (1, 2)]
    assert pc.sum(left["rank"]).as_py() == 48 * 3


def test_searches_only_they_made_go_and_all_others_are_counted_as_if_they_had_never_been(spark, warehouse, tmp_path):
    settings, vector = MemorySettings(encoder="tiny"), [1.0, 0.0]
    old = {"category": "Hats", "query": "old", "item_id": "i", "clicks": 1, "purchases": 0, "positions": 0,
           "position_sum": 0}  # fmt: skip
    warehouse.publish("query_daily", table("query_daily", [old]), date=DAYS[0])  # its `interactions` are kept no more
    searches = [(CANARY, "own", "Own"), (CANARY, "shared", "Shared"), (OTHER, "shared", "shared"),
                (CANARY, "written", "Written!"), (OTHER, "written again", "Written!"), (CANARY, "old", "old"),
                (OTHER, "theirs", "theirs")]  # fmt: skip
    event = {"event_time": datetime.fromisoformat(DAYS[1]).replace(tzinfo=UTC), "action": "click", "item_id": "i",
             "category": "Hats", "position": 1}  # fmt: skip
    rows = [{**event, "event_id": f"e{number}", "user_id": user, "query": query, "query_original": written}
            for number, (user, query, written) in enumerate(searches)]  # fmt: skip
    warehouse.publish("interactions", table("interactions", rows), date=DAYS[1])
    others = Warehouse(tmp_path / "others")
    others.publish("interactions", table("interactions", [r for r in rows if r["user_id"] == OTHER]), date=DAYS[1])
    for one in (warehouse, others):
        counts = query_daily(one.frame(spark, "interactions", days=[DAYS[1]]))
        one.publish_days("query_daily", counts, [DAYS[1]])
    names = sorted({query for _, query, _ in searches})
    vectors = [{"encoder": "tiny", "query": query, "vector": vector} for query in names]
    warehouse.publish("query_vectors", table("query_vectors", vectors))
    memory = {"as_of": DAYS[1], "category": "Hats", "items": ["i"], "mean_positions": [1.0], "clicks": [1],
              "purchases": [0]}  # fmt: skip
    warehouse.publish("query_memory", table("query_memory", [{**memory, "query": query} for query in names]))

    traces = find_traces(warehouse, [CANARY])
    assert traces.queries == {"own", "Own", "Shared", "written", "old"}, "not what somebody else made or wrote too"
    suppression = add(tmp_path / "home", None, [CANARY])
    removed = remove_from_tables(warehouse, traces, suppression, settings, SparkSource(SparkSettings()))
    assert removed == {"query_daily": 3, "query_vectors": 2, "query_memory": 2, "interactions": 4}
    assert warehouse.content("query_daily", date=DAYS[1]) == others.content("query_daily", date=DAYS[1])
    assert warehouse.read("query_daily", date=DAYS[0]).to_pylist() == [old]
    left = ["old", "shared", "theirs", "written again"]
    assert sorted(warehouse.read("query_vectors")["query"].to_pylist()) == left
    assert sorted(warehouse.read("query_memory")["query"].to_pylist()) == left
