"""A range of days as one run: chunk by chunk, and after a kill only what is not there yet."""

import itertools
import os
import signal
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from small_shop import Shop, event, write_events

import assets.ranges
import ml.log
from ml.finished_days import FinishedDays
from ml.log import inputs_of_days, partition_window
from ml.tables import TABLES
from ml.warehouse import Warehouse
from pipelines.jobs import SELECTIONS
from pipelines.run import RunFailedError, Runner

ROOT = Path(__file__).parents[2]
DAYS = [(date(2026, 3, 1) + timedelta(days=n)).isoformat() for n in range(6)]
KILLED = """
import os, signal, sys
import ml.warehouse.local_store as warehouse
from pathlib import Path
from pipelines.run import Runner
from pipelines.settings import load_settings

file, first, last, deadly = sys.argv[1:]
put = warehouse.put_in_place

def patched(new, target):
    existed = put(new, target)
    if str(target).endswith(deadly):
        os.kill(os.getpid(), signal.SIGKILL)
    return existed

warehouse.put_in_place = patched
Runner(load_settings(Path(file), environment={}).settings).run("ingest", days=(first, last))
"""


@pytest.fixture
def log(tmp_path):
    """Six days of a few events, chunks of two."""
    shop = Shop(tmp_path / "shop")
    items = pa.table({"item_id": ["hat", "coat"], "title": ["Hat", "Coat"], "category": ["Clothing"] * 2})
    for number, day in enumerate(DAYS):
        found = {"query": f"hat {number}", "item_id": "hat", "position": 1}
        rows = [event(f"{day} {n}", day, user_id=f"u{n}", minute=n, **found) for n in range(number + 1)]
        write_events(shop, day, [*rows, event(f"{day} late", DAYS[max(number - 1, 0)], item_id="coat")])
    pq.write_table(items, shop.folder / "raw" / "catalog.parquet")
    settings = {
        "raw_log": "raw/interactions", "catalog": "raw/catalog.parquet", "warehouse": "warehouse", "home": "home",
        "start_date": DAYS[0], "log": {"chunk_days": 2},
    }  # fmt: skip
    shop.file.write_text(yaml.safe_dump(settings))
    return shop


@pytest.fixture
def made(monkeypatch):
    """The days that were made from here on, by table."""
    days = {}
    publish = Warehouse.publish_days

    def noted(self, table, frame, some, **options):
        days.setdefault(table, []).append(list(some))
        return publish(self, table, frame, some, **options)

    monkeypatch.setattr(Warehouse, "publish_days", noted)
    return days


@pytest.fixture
def chunks(monkeypatch):
    """What each chunk reads from here on, in which Spark application, and what Spark keeps in memory as it begins."""
    seen = SimpleNamespace(raw=[], interactions=[], applications=set(), kept=[])
    read, frame = ml.log.read_raw, Warehouse.frame

    def reading(session, folder, days):
        seen.raw.append(list(days))
        seen.applications.add(session.sparkContext.applicationId)
        seen.kept.append(session.sparkContext._jsc.getPersistentRDDs().size())
        return read(session, folder, days)

    def framed(self, session, table, days=None, **levels):
        if table == "interactions":
            seen.interactions.append(days)
            seen.applications.add(session.sparkContext.applicationId)
        return frame(self, session, table, days, **levels)

    monkeypatch.setattr(ml.log, "read_raw", reading)
    monkeypatch.setattr(Warehouse, "frame", framed)
    return seen


def ingest(shop, first=DAYS[0], last=DAYS[-1]):
    """Run the job over a range; return what it logged."""
    runner = Runner(shop.settings)
    done = runner.run("ingest", days=(first, last))
    with runner.instance() as instance:
        return [entry.user_message for entry in instance.all_logs(done.run_id)]


def stop_at(monkeypatch, day):
    """Let the disk fail when `interactions` of a day is published."""
    import ml.warehouse.local_store as module

    put = module.put_in_place

    def failing(new, target):
        if str(target).endswith(f"/interactions/date={day}"):
            raise OSError(5, "Input/output error")
        return put(new, target)

    monkeypatch.setattr(module, "put_in_place", failing)


def test_a_killed_backfill_makes_only_the_rest_and_ends_in_the_same_tables(spark, log, made, chunks):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(log.file), DAYS[0], DAYS[-1], f"/interactions/date={DAYS[3]}"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert log.warehouse.days("interactions") == DAYS[:4] and log.warehouse.days("query_daily") == []
    before = log.published()
    said = ingest(log)
    assert made["interactions"] == made["rejected_interactions"] == [DAYS[2:4], DAYS[4:]]
    assert made["query_daily"] == [DAYS[:2], DAYS[2:4], DAYS[4:]]
    a_chunk_costs_what_it_is_long(chunks, spark)
    assert any("2 of 6 days are there already" in line for line in said)
    assert any(f"{DAYS[4]} … {DAYS[5]} published: 6 of 6 days" in line for line in said)
    after = log.published()
    assert {name: after[name] for name in before} == before, "what was published is not written again"
    assert list((log.folder / "warehouse" / "_staging").glob("[!_]*/*")) == []
    assert list((log.folder / "home" / "work" / "ranges").iterdir()) == []
    each_day_tells_its_own_rows(log)

    made.clear()
    log.change(log={"chunk_days": 6})
    ingest(log)
    assert made["interactions"] == [DAYS], "a range that is through is made anew"
    assert log.published() == after, "and is the same, unbroken and in one piece"


def a_chunk_costs_what_it_is_long(chunks, spark):
    """However long the range is: one Spark session, a chunk's own days are read, its rows do not stay in memory."""
    assert chunks.raw == [partition_window(days, 1) for days in (DAYS[2:4], DAYS[4:])]
    assert chunks.interactions == [DAYS[:2], DAYS[2:4], DAYS[4:]]
    assert chunks.applications == {spark.sparkContext.applicationId}
    assert chunks.kept[1] - chunks.kept[0] <= 1, "the catalogue alone"


def each_day_tells_its_own_rows(log):
    """Dagster has each day's own numbers, and the newest day's alone have plots and a preview."""
    with Runner(log.settings).instance() as instance:
        for table in ("interactions", "rejected_interactions", "query_daily"):
            records = instance.fetch_materializations(dg.AssetKey(table), 1000).records
            shown = {r.asset_materialization.partition: r.asset_materialization.metadata for r in records}
            rows = {day: len(log.rows(table, date=day)) for day in DAYS}
            assert {day: one["dagster/row_count"].value for day, one in shown.items()} == rows
            assert [day for day, one in shown.items() if "preview" in one] == [DAYS[-1]]
            if table == "interactions":
                assert len(shown[DAYS[-1]]["seconds_a_day"].value) == 2 and "events_per_day" not in shown[DAYS[0]]


def test_what_would_be_made_otherwise_now_is_made_again(spark, log, made, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(RunFailedError, match="interactions"):
        stop_at(patch, DAYS[4])
        ingest(log)
    write_events(log, DAYS[0], [event("new", DAYS[0], item_id="hat")], "more.parquet")
    damaged = next(Path(log.warehouse.location("interactions", date=DAYS[2])).iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    made.clear()
    ingest(log)
    assert made["interactions"] == [DAYS[:2], [DAYS[2], DAYS[4]], [DAYS[5]]], "all but the fourth day"
    assert "new" in {row["event_id"] for row in log.rows("interactions", date=DAYS[0])}
    assert log.warehouse.is_whole("interactions", date=DAYS[2])


def test_a_day_that_was_replaced_meanwhile_is_made_again(tmp_path):
    """From a backup, say: whole, and not what the range has made."""
    warehouse, day = Warehouse(tmp_path / "warehouse"), DAYS[0]
    schema = TABLES["query_daily"].schema

    def finished():
        return FinishedDays(tmp_path / "days.json", warehouse, ["query_daily"])

    warehouse.publish("query_daily", schema.empty_table(), date=day)
    finished().add({day: "its files"})
    assert finished().holds(day, "its files")
    row = {name: 1 if pa.types.is_integer(schema.field(name).type) else "hat" for name in schema.names}
    other = pa.Table.from_pylist([row], schema)
    warehouse.publish("query_daily", other, date=day)
    assert warehouse.is_whole("query_daily", date=day)
    assert not finished().holds(day, "its files")


def test_a_file_that_changes_while_its_days_are_made_has_them_made_again(spark, log, monkeypatch):
    publish = Warehouse.publish_days

    def changing(self, table, frame, some, **options):
        if table == "rejected_interactions" and DAYS[0] in some:  # the raw files are read, the chunk is not through
            write_events(log, DAYS[0], [event("new", DAYS[0], item_id="hat")], "more.parquet")
        return publish(self, table, frame, some, **options)

    with monkeypatch.context() as patch, pytest.raises(RunFailedError, match="interactions"):
        patch.setattr(Warehouse, "publish_days", changing)
        stop_at(patch, DAYS[2])
        ingest(log, last=DAYS[2])
    ingest(log, last=DAYS[2])
    assert "new" in {row["event_id"] for row in log.rows("interactions", date=DAYS[0])}


def test_a_chunk_says_how_far_the_range_is_and_what_a_day_cost(spark, log, monkeypatch):
    clock = itertools.count(0, 10)  # it is looked at as a chunk begins and as it ends: each takes 10 seconds
    monkeypatch.setattr(assets.ranges, "perf_counter", lambda: next(clock))
    said = ingest(log, last=DAYS[2])
    for line in (f"{DAYS[0]} … {DAYS[1]} published: 2 of 3 days, 5.00 s a day",
                 f"{DAYS[2]} … {DAYS[2]} published: 3 of 3 days, 10.00 s a day"):  # fmt: skip
        assert said.count(line) == 2, "of interactions, and of query_daily"
    assert not any("are there already" in line for line in said)
    with Runner(log.settings).instance() as instance:
        (newest,) = (one.asset_materialization for one in
                     instance.fetch_materializations(dg.AssetKey("interactions"), 1).records)  # fmt: skip
    assert newest.metadata["seconds_a_day"].value == [5.0, 10.0]


def test_dagster_makes_a_range_in_one_run(log):
    """A range asked for in the UI too: else it starts a run, with a Spark session, for each day."""
    graph = Runner(log.settings).definitions.resolve_asset_graph()
    for table in SELECTIONS["ingest"]:
        assert graph.get(dg.AssetKey(table)).backfill_policy == dg.BackfillPolicy.single_run(), table


def test_a_day_is_made_from_its_files_the_catalogue_and_the_settings(log):
    def made_from():
        return inputs_of_days(log.settings, log.warehouse, DAYS)

    known = made_from()
    log.change(log={"chunk_days": 5})
    assert made_from() == known, "in what pieces changes nothing"
    os.utime(next(log.raw(DAYS[2]).iterdir()), (1, 1))
    assert [day for day in DAYS if made_from()[day] != known[day]] == DAYS[1:4]
    known = made_from()
    log.change(log={"max_reject_share": 0.5})
    assert not set(made_from().values()) & set(known.values())
    known = made_from()
    os.utime(log.folder / "raw" / "catalog.parquet", (1, 1))
    assert not set(made_from().values()) & set(known.values())
