"""Killed writers, full disks and lost permission, with plain readers looking on."""

import ctypes
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.tables import TABLES
from ml.warehouse import PublishError, Warehouse, files

DAY = "2026-11-20"
CLOTHING = {"date": DAY, "category": "Clothing"}
CATEGORIES = ["Accessories", "Clothing", "Footwear"]
ROWS = 400
POINTS = ["before data", "in data", "staged", "checked", "before exchange", "after exchange"]
PROJECT = Path(files.__file__).parents[2]


def version(number, rows=ROWS):
    """A recommendations partition whose every row says its version; the bytes of two versions differ."""
    data = {c.name: [None] * rows if not c.required else ["x"] * rows for c in TABLES["recommendations"].columns}
    data |= {
        "user_id": [f"u{n}" for n in range(rows)],
        "rank": [1] * rows,
        "score": [random.Random(n + number).random() for n in range(rows)],
        "model_version": [str(number)] * rows,
        "model_from_future": [False] * rows,
    }
    return pa.table(data, schema=TABLES["recommendations"].schema)


WRITER = """
import os, signal, sys
sys.path.insert(0, {here!r})
from test_warehouse_faults import DAY, version
from ml.warehouse import Warehouse

root, category, first, last, deadly = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]

def at(point):
    if point == deadly:
        os.kill(os.getpid(), signal.SIGKILL)

def rows(number):
    # More rows than a row group: the process is killed before the first of them, or after the last.
    at("before data")
    yield from version(number, 80_000).to_batches(10_000)
    at("in data")

for number in range(first, last):
    data = rows(number) if deadly.endswith(" data") else version(number)
    Warehouse(root, on_point=at).publish("recommendations", data, date=DAY, category=category)
    if number == first:
        print("ready", flush=True)
"""

READER = """
import json, sys, time
from pathlib import Path

how, root, stop, pause = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[5])

def duckdb_counts():
    import duckdb
    rows = duckdb.sql(
        f"SELECT category, count(*), count(DISTINCT model_version) FROM read_parquet("
        f"'{root}/recommendations/*/*/*.parquet', hive_partitioning=true) GROUP BY category").fetchall()
    return sorted([str(c), n, v] for c, n, v in rows)

def pandas_counts():
    import pandas as pd
    frame = pd.read_parquet(root / "recommendations")
    grouped = frame.groupby("category", observed=True)["model_version"]
    return sorted([str(c), n, v] for (c, n), v in zip(grouped.size().items(), grouped.nunique()))

counts = {"duckdb": duckdb_counts, "pandas": pandas_counts}[how]
seen, end = {"whole": 0, "loud": 0, "wrong": []}, time.monotonic() + 120
while not stop.exists() and time.monotonic() < end:
    time.sleep(pause)
    try:
        found = counts()
    except Exception as error:
        seen["loud"] += 1
        continue
    if found == json.loads(sys.argv[4]):
        seen["whole"] += 1
        if seen["whole"] == 1:
            print("ready", flush=True)
    else:
        seen["wrong"].append(found)
print(json.dumps(seen))
"""


def start(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    code = textwrap.dedent(script).replace("{here!r}", repr(str(Path(__file__).parent)))
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_ready(processes):
    """Imports take seconds on a busy machine: wait for each child's first success."""
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]


@contextmanager
def spark_reader(spark, root, expected, pause):
    """Loop Spark over the table while the block runs, in a thread: its JVM is another process already."""
    from pyspark.sql import functions as F

    seen, stop, ready = {"whole": 0, "loud": [], "wrong": []}, threading.Event(), threading.Event()

    def look():
        while not stop.wait(pause):
            try:
                frame = spark.read.parquet(f"file://{root}/recommendations").groupBy("category")
                counted = frame.agg(F.count("*"), F.count_distinct("model_version")).collect()
            except Exception as error:
                seen["loud"].append(str(error))
                continue
            found = sorted([category, rows, versions] for category, rows, versions in counted)
            seen["whole"] += found == expected
            seen["wrong"] += [] if found == expected else [found]
            ready.set()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        assert ready.wait(timeout=120), f"Spark never read the table: {seen['loud'][:1]}"
        yield
    finally:
        stop.set()
        thread.join(timeout=120)
    assert seen["wrong"] == [], f"Spark saw {seen['wrong'][:3]}"
    assert seen["whole"] > 3, f"Spark hardly read the table: {seen['loud'][:1]}"


@contextmanager
def readers(root, tmp_path, spark=None, pause=0.0):
    """Loop readers over the table while the block runs, then demand that every answer was whole or loud.

    `pause` is between a reader's looks, in seconds: what the block does may need the cores too.
    """
    expected = [[c, ROWS, 1] for c in CATEGORIES]
    stop = tmp_path / "stop"
    kinds = ("duckdb", "pandas")
    running = [start(READER, kind, root, stop, json.dumps(expected), pause) for kind in kinds]
    try:
        wait_until_ready(running)
        with spark_reader(spark, root, expected, pause) if spark is not None else nullcontext():
            yield
    finally:
        stop.touch()
        answers = [process.communicate(timeout=60) for process in running]
    for kind, (out, err) in zip(kinds, answers, strict=True):
        seen = json.loads(out or "null")
        assert seen, err
        assert seen["wrong"] == [], f"{kind} saw {seen['wrong'][:3]}"
        assert seen["whole"] > 0, f"{kind} never read the table"


@pytest.fixture
def root(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    for category in CATEGORIES:
        warehouse.publish("recommendations", version(0), date=DAY, category=category)
    return warehouse.root


def published(root, category):
    table = Warehouse(root).read("recommendations", date=DAY, category=category)
    assert table.num_rows == ROWS
    (found,) = set(table["model_version"].to_pylist())
    return int(found)


def test_a_writer_killed_at_any_point_leaves_old_or_new_and_a_rerun_ends_the_same(root, tmp_path, spark):
    with readers(root, tmp_path, spark=spark, pause=0.2):
        for number, point in enumerate(POINTS, start=1):
            killed = start(WRITER, root, "Clothing", number, number + 1, point)
            _, err = killed.communicate(timeout=60)
            assert killed.returncode == -signal.SIGKILL, err
            assert published(root, "Clothing") == (number if point == "after exchange" else number - 1)
            staged = (root / "_staging" / "recommendations").rglob("*")
            written = sum(path.stat().st_size for path in staged if path.is_file())
            assert (written > ROWS) is (point in ("in data", "staged", "checked")), "the kill left rows, or none"
            again = Warehouse(root).publish("recommendations", version(number), date=DAY, category="Clothing")
            assert again.changed is (point != "after exchange")
            assert published(root, "Clothing") == number
            assert list((root / "_staging" / "recommendations").iterdir()) == []
            assert list((root / "_locks" / "_staging" / "recommendations").iterdir()) == []
    Warehouse(root, grace_seconds=0).publish("recommendations", version(9), date=DAY, category="Clothing")
    assert list((root / "_staging" / "_outgoing").iterdir()) == []
    leaf = Path(Warehouse(root).location("recommendations", date=DAY, category="Clothing"))
    assert [p.suffix for p in leaf.iterdir()] == [".parquet"]


def test_readers_never_see_mixed_or_missing_rows_while_writers_run_and_die(root, tmp_path):
    """Two writers on one partition, one on another, publishing as fast as they can, killed at any time."""
    clock = random.Random(4)
    with readers(root, tmp_path):
        for _ in range(2):
            writers = [
                start(WRITER, root, category, 1, 10_000, "never") for category in ("Clothing", "Clothing", "Footwear")
            ]
            wait_until_ready(writers)
            time.sleep(clock.random())
            for writer in writers:
                writer.kill()
                _, err = writer.communicate()
                assert "Error" not in err, err
            for category in CATEGORIES:
                assert published(root, category) >= 0
    assert published(root, "Clothing") > 0, "the writers did publish"


def test_a_replaced_partition_is_whole_after_every_step_on_the_disk(root, monkeypatch):
    """A reader in a loop may be too slow for a moment without the folder: this one looks after each change."""
    warehouse, seen = Warehouse(root, grace_seconds=0), []
    leaf = Path(warehouse.location("recommendations", **CLOTHING))

    def names():
        return tuple(sorted(path.name for path in leaf.glob("*")))

    def watched(change):
        def call(*arguments, **named):
            done = change(*arguments, **named)
            seen.append(names())
            return done

        return call

    old = names()
    for change in ("rename", "replace", "rmdir", "unlink"):
        monkeypatch.setattr(os, change, watched(getattr(os, change)))
    warehouse.publish("recommendations", version(1), **CLOTHING)
    assert len(seen) >= 3 and old and set(seen) == {old, names()}


def test_a_reader_that_opened_the_old_folder_never_finds_it_empty(root):
    """It gets the old names, whose paths are gone, and fails loudly; an empty listing would be missing rows."""
    warehouse = Warehouse(root)
    leaf = Path(warehouse.location("recommendations", date=DAY, category="Clothing"))
    before = sorted(p.name for p in leaf.iterdir())
    with os.scandir(leaf) as listing:  # the folder is opened here and read below
        warehouse.publish("recommendations", version(1), date=DAY, category="Clothing")
        warehouse.publish("recommendations", version(1), date=DAY, category="Footwear")
        assert sorted(entry.name for entry in listing) == before
    assert not (leaf / before[0]).exists()


def test_a_folder_replaced_and_deleted_between_opening_and_listing_is_listed_again(root, monkeypatch):
    """The empty listing of the deleted folder is nobody's content: the reader gets the new rows."""
    warehouse = Warehouse(root, grace_seconds=0)
    scandir, publish = os.scandir, [lambda: warehouse.publish("recommendations", version(1), **CLOTHING)]

    def late(opened):
        if isinstance(opened, int) and publish:
            publish.pop()()
            assert not list(scandir(os.dup(opened))), "this is what the reader would have seen"
        return scandir(opened)

    monkeypatch.setattr(os, "scandir", late)
    assert warehouse.read("recommendations", ["model_version"], **CLOTHING)["model_version"].to_pylist() == ["1"] * ROWS


def test_a_partition_removed_between_opening_and_listing_is_gone(root, monkeypatch):
    warehouse = Warehouse(root)
    scandir, remove = os.scandir, [lambda: warehouse.remove("recommendations", **CLOTHING)]

    def late(opened):
        if isinstance(opened, int) and remove:
            remove.pop()()
        return scandir(opened)

    monkeypatch.setattr(os, "scandir", late)
    assert not warehouse.exists("recommendations", **CLOTHING)
    assert not remove


def test_a_writer_held_up_longer_than_the_grace_publishes_whole_or_fails(root, monkeypatch):
    """What it is about to put in place looks like an old version then, and another writer is removing it."""
    warehouse = Warehouse(root, grace_seconds=0)
    before = warehouse.content("recommendations", **CLOTHING)

    def held_up(point):
        if point == "before exchange":
            with monkeypatch.context() as patch:
                patch.setattr(shutil, "rmtree", lambda folder, **_: [file.unlink() for file in folder.iterdir()])
                warehouse.remove("recommendations", date=DAY, category="Footwear")

    with pytest.raises(PublishError):
        Warehouse(root, grace_seconds=0, on_point=held_up).publish("recommendations", version(1), **CLOTHING)
    assert warehouse.content("recommendations", **CLOTHING) == before


def noise(rows):
    """Rows that do not compress."""
    source = random.Random(0)
    return version(1, rows).set_column(2, "item_id", pa.array([f"{source.getrandbits(512):x}" for _ in range(rows)]))


@contextmanager
def small_disk(megabytes):
    """A tmpfs of that size; skips where it cannot be mounted."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("may not mount a small disk")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_named_and_leaves_what_was_there():
    with small_disk(2) as disk:
        warehouse = Warehouse(disk, grace_seconds=0)
        warehouse.publish("recommendations", version(0), date=DAY, category="Clothing")
        big = noise(100_000)
        for data in (big, iter(big.to_batches(1000))):
            with pytest.raises(PublishError, match=r"recommendations.*Clothing.*disk is full.*run again"):
                warehouse.publish("recommendations", data, date=DAY, category="Clothing")
            assert published(disk, "Clothing") == 0
            assert list((disk / "_staging" / "recommendations").iterdir()) == [], "its own leftovers free the disk"
        assert warehouse.publish("recommendations", version(2), date=DAY, category="Clothing").changed


def test_a_disk_filled_by_spark_is_named_too(spark):
    from pyspark.sql import functions as F

    with small_disk(2) as disk:
        warehouse = Warehouse(disk, grace_seconds=0)
        warehouse.publish("recommendations", version(0), date=DAY, category="Clothing")
        rows = spark.range(200_000).select(
            F.col("id").cast("string").alias("user_id"),
            F.lit(1).alias("rank"),
            F.sha2(F.col("id").cast("string"), 512).alias("item_id"),
            F.rand(0).alias("score"),
            *(F.lit("x").alias(name) for name in ("source", "part", "listed_on")),
            *(F.lit(None).alias(c.name) for c in TABLES["recommendations"].columns if not c.required),
            F.lit(False).alias("model_from_future"),
        )
        with pytest.raises(PublishError, match=r"recommendations.*disk is full"):
            warehouse.publish_frame("recommendations", rows, date=DAY, category="Clothing")
        assert published(disk, "Clothing") == 0
        assert list((disk / "_staging" / "recommendations").iterdir()) == []


LIMITED = """
import resource, sys
sys.path.insert(0, {here!r})
from test_warehouse_faults import DAY, noise
from ml.warehouse import PublishError, Warehouse

resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    Warehouse(sys.argv[1]).publish("recommendations", noise(20_000), date=DAY, category="Clothing")
except PublishError as error:
    print(error)
"""


def test_a_file_that_may_not_grow_is_a_full_disk(root):
    child = start(LIMITED, root)
    out, err = child.communicate(timeout=60)
    assert "disk is full" in out and "category=Clothing" in out, err
    assert published(root, "Clothing") == 0
    assert list((root / "_staging" / "recommendations").iterdir()) == []


@contextmanager
def read_only(folder, outer):
    """Take away the right to write into `folder`; root becomes someone else, who owns all of `outer` but that."""
    folder.chmod(0o555)
    if os.geteuid():
        yield
    else:
        for path in {outer, *outer.rglob("*")} - {folder}:
            os.chown(path, 65534, 65534)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    folder.chmod(0o755)


@pytest.mark.parametrize("lost", ["_staging/recommendations", f"recommendations/date={DAY}"])
def test_lost_permission_is_named_and_leaves_what_was_there(lost):
    with tempfile.TemporaryDirectory() as outer:
        warehouse = Warehouse(Path(outer, "warehouse"), grace_seconds=0)
        warehouse.publish("recommendations", version(0), date=DAY, category="Clothing")
        message = r"recommendations.*Clothing.*may not write below"
        with read_only(warehouse.root / lost, Path(outer)), pytest.raises(PublishError, match=message):
            warehouse.publish("recommendations", version(1), date=DAY, category="Clothing")
        assert published(warehouse.root, "Clothing") == 0
        assert not list(warehouse.root.glob("_staging/*/*"))
        assert warehouse.publish("recommendations", version(1), date=DAY, category="Clothing").changed


def test_a_file_system_without_exchange_is_refused_in_words(root, monkeypatch):
    class Libc:
        @staticmethod
        def renameat2(*_):
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(files, "_libc", lambda: Libc)
    with pytest.raises(PublishError, match="cannot exchange two folders atomically"):
        Warehouse(root).publish("recommendations", version(1), date=DAY, category="Clothing")
    assert published(root, "Clothing") == 0
    assert Warehouse(root).publish("recommendations", version(1), date="2026-11-21", category="Clothing").changed


def test_a_publication_is_on_the_disk_before_it_is_seen(root, monkeypatch):
    """Every file and folder is synced before the exchange, and the folder it appears in afterwards."""
    events = []
    sync = files.fsync_path
    for module in ("ml.warehouse.files", "ml.warehouse.local_store"):
        monkeypatch.setattr(f"{module}.fsync_path", lambda path: (events.append(Path(path)), sync(path))[1])
    warehouse = Warehouse(root, on_point=lambda point: events.append(point))
    done = warehouse.publish("recommendations", version(1), date=DAY, category="Clothing")
    seen = events.index("after exchange")
    (file,) = [p.name for p in Path(done.location).iterdir()]
    assert file in [e.name for e in events[:seen] if isinstance(e, Path)]
    assert Path(done.location).parent in events[seen:]
    assert pq.read_table(Path(done.location)).num_rows == ROWS
