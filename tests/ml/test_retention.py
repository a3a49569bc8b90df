"""What goes and what stays: real Parquet, real MLflow on SQLite, and the clock set forward."""

import os
import threading
import time
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from model_registries import new_registry, register
from pydantic import ValidationError

from ml.errors import HemlineError
from ml.models.champions import rollback
from ml.models.registry import ROLLED_BACK
from ml.retention import first_log_day, forgotten_work, old_partitions, unneeded_versions
from ml.retention.tables import LOG, NIGHTS
from ml.retention.versions import references
from ml.settings import RetentionSettings, Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

DAYS = [(date(2026, 3, 1) + timedelta(days=n)).isoformat() for n in (0, 2, 8, 9, 24, 25, 38, 39)]
"""The newest 31 begin with the fourth, the newest 15 with the sixth."""
YEAR = 365 * 86_400


def lists(version, listed_on, title_encoder=None):
    """One customer's list of one item, made by these versions."""
    schema = TABLES["recommendations"].schema
    row = {name: None if schema.field(name).nullable else "x" for name in schema.names}
    row |= {"rank": 1, "score": 0.0, "model_from_future": False, "listed_on": listed_on}
    return pa.Table.from_pylist([row | {"model_version": version, "title_encoder_version": title_encoder}], schema)


@pytest.fixture
def warehouse(tmp_path):
    return Warehouse(tmp_path / "warehouse", grace_seconds=0)


def settings_with(tmp_path, **retention):
    return Settings(warehouse=tmp_path / "warehouse", home=tmp_path / "home", retention=retention)


def empty_days(warehouse, tables, days):
    for table in tables:
        for day in days:
            level = {"category": "Clothing"} if "category" in TABLES[table].levels else {}
            warehouse.publish(table, TABLES[table].schema.empty_table(), date=day, **level)


def test_old_days_go_and_what_made_the_lists_that_stay_does_not(warehouse, tmp_path):
    empty_days(warehouse, LOG, DAYS)
    empty_days(warehouse, NIGHTS, DAYS[:-1])
    for table in ("recommendations", "generations"):
        rows = lists("1", DAYS[1]) if table == "recommendations" else TABLES[table].schema.empty_table()
        warehouse.publish(table, rows, date=DAYS[-1], category="Clothing")
    assert old_partitions(settings_with(tmp_path), warehouse, ()) == [], "by default all days stay"
    settings = settings_with(tmp_path, log_days=31, night_days=15)
    named = references(warehouse, DAYS[5:])
    assert named.listed_on == {DAYS[1]}
    for one in old_partitions(settings, warehouse, named.listed_on):
        one.remove()
    assert {table: warehouse.days(table) for table in LOG} == dict.fromkeys(LOG, DAYS[3:])
    for table in NIGHTS:
        made_it = [DAYS[1]] if table in ("user_histories", "generations") else []
        kept = DAYS[5:] if table in ("recommendations", "generations") else DAYS[5:-1]
        assert warehouse.days(table) == made_it + kept, table
    assert list((warehouse.root / "_staging").glob("*/*")) == [], "no file is left behind"
    assert old_partitions(settings, warehouse, named.listed_on) == []
    assert first_log_day(settings.model_copy(update={"start_date": DAYS[0]}), DAYS[-1]) == DAYS[3]


def test_a_reader_beside_a_removal_sees_a_day_whole_or_not_at_all_or_an_error(tmp_path):
    import duckdb

    warehouse = Warehouse(tmp_path)
    for day in DAYS:
        for category in ("Bags", "Clothing"):
            warehouse.publish("recommendations", lists("1", day), date=day, category=category)
    glob, seen, stop = f"{tmp_path}/recommendations/*/*/*.parquet", [], threading.Event()

    def look():
        while not stop.is_set():
            try:
                query = f"SELECT date, count(*) FROM read_parquet('{glob}', hive_partitioning=true) GROUP BY date"
                seen.append(dict(duckdb.connect().execute(query).fetchall()))
            except duckdb.Error as error:
                assert "No such file" in str(error) or "Could not" in str(error) or "Cannot open" in str(error), error

    reader = threading.Thread(target=look)
    reader.start()
    for day in DAYS[:-1]:
        warehouse.remove("recommendations", date=day)
        time.sleep(0.05)
    while not seen or len(seen[-1]) > 1:
        time.sleep(0.01)
    stop.set()
    reader.join()
    assert {rows for answer in seen for rows in answer.values()} == {2}


def test_windows_that_are_read_cannot_be_removed(tmp_path):
    with pytest.raises(ValidationError, match=r"retention\.log_days: expected 0 \(for ever\) or at least 31"):
        settings_with(tmp_path, log_days=30)
    with pytest.raises(ValidationError, match=r"retention\.night_days: expected 0 .* at least 15"):
        settings_with(tmp_path, night_days=14)


@pytest.fixture
def registry(tmp_path):
    return new_registry(tmp_path)


@pytest.fixture
def fit(registry, tmp_path):
    """Register versions, promoted or not; each has files of its own."""
    made = []

    def fit(kind, promoted=True, **tags):
        made.append(kind)
        numbers = np.full(4, len(made), np.float64)
        version = register(registry, tmp_path / f"model-{len(made)}", numbers, kind=kind, **tags)
        if promoted:
            registry.promote(version)
        return version.version

    return fit


def with_files(registry, kind):
    return [str(v.version) for v in reversed(registry.versions(kind, "Clothing")) if registry.has_files(v)]


def remove(registry, named, now, **retention):
    for one in unneeded_versions(registry, RetentionSettings(**retention), named, now):
        one.remove()


def test_files_go_where_no_list_no_rollback_and_no_fit_needs_them(registry, fit, warehouse):
    for promoted in (True, True, True, True, False, True, True, False):  # 1 … 8; 5 and 8 were refused
        fit("adapter", promoted)
    assert rollback(registry, "adapter", "Clothing").after == "6"
    warehouse.publish("recommendations", lists("2", DAYS[0]), date=DAYS[0], category="Clothing")
    warehouse.publish("recommendations", lists("1", DAYS[1]), date=DAYS[1], category="Clothing")
    named = references(warehouse, DAYS[:1]).versions
    assert named["adapter", "Clothing"] == named["adapter", "all"] == {"2"}, "lists that go need nothing"
    remove(registry, named, time.time())
    assert with_files(registry, "adapter") == list("12345678"), "young ones stay, whatever became of them"
    remove(registry, named, time.time() + YEAR, champions=2)
    assert with_files(registry, "adapter") == list("2468"), "named, before the one in use, in use, newest"

    tags = {str(v.version): v.tags for v in registry.versions("adapter", "Clothing")}
    assert len(tags) == 8 and ROLLED_BACK in tags["7"] and tags["7"]["content"], "what they were is still known"
    with pytest.raises(HemlineError, match=r"version 3 were removed on .*retention"):
        registry.version("adapter", "Clothing", "3")
    assert not [p for p in registry._artifact_root.rglob("*") if p.name.endswith(".removed")]
    assert rollback(registry, "adapter", "Clothing").after == "4"
    with pytest.raises(HemlineError, match=r"version 3 were removed on"):
        rollback(registry, "adapter", "Clothing")
    assert registry.used_version("adapter", "Clothing") == "4"
    remove(registry, named, time.time() + YEAR, champions=2)
    assert with_files(registry, "adapter") == list("248")


def test_an_index_stays_as_long_as_its_model(registry, fit):
    for version in "123":
        fit("title_encoder")
        fit("title_index", title_encoder_version=version)
    fit("title_index", title_encoder_version="3")  # so that the index of 2 is not among the last two in use
    remove(registry, {}, time.time() + YEAR, champions=2)
    assert with_files(registry, "title_encoder") == ["2", "3"]
    assert with_files(registry, "title_index") == ["2", "3", "4"]


def test_a_removal_that_was_cut_short_is_done_by_repeating_it(registry, fit, monkeypatch):
    for _ in range(4):
        fit("ranker")

    def cut(path, ignore_errors=False):
        raise OSError("cut")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="cut"):
        patch.setattr("ml.models.registry.shutil.rmtree", cut)
        remove(registry, {}, time.time() + YEAR, champions=2)
    remove(registry, {}, time.time() + YEAR, champions=2)
    assert with_files(registry, "ranker") == ["3", "4"]
    assert registry.champion("ranker", "Clothing").version == "4"


def test_work_that_nobody_came_back_to_goes_a_checkpoint_as_a_whole(tmp_path):
    settings = settings_with(tmp_path)
    work, now = settings.work_folder, time.time()
    ages = {
        "generations/Clothing/old.parquet": 29, "generations/Clothing/new.parquet": 27,
        "adapter/Clothing/epochs/checkpoint-2/model.safetensors": 90,
        "adapter/Bags/epochs/checkpoint-2/model.safetensors": 90, "adapter/Bags/epochs/checkpoint-4/state.json": 1,
        "evaluation/Clothing/finished/all/core.json": 40,
    }  # fmt: skip
    for name, days in ages.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("x")
        os.utime(work / name, (now - days * 86_400,) * 2)
    for folder in {work / "adapter" / "Clothing", *(work / "adapter" / "Clothing").rglob("*")}:
        os.utime(folder, (now - 90 * 86_400,) * 2)
    found = forgotten_work(settings, now)
    gone = ["adapter/Clothing", "evaluation/Clothing/finished/all/core.json", "generations/Clothing/old.parquet"]
    assert [one.what for one in found] == gone
    for one in found:
        one.remove()
    left = {str(p.relative_to(work)) for p in work.rglob("*") if p.is_file()}
    assert left == {name for name in ages if not name.startswith(tuple(gone))}
