"""A night on a disk that is really full: said in words, nothing lost, and done again once there is room."""

import os
import shutil
import subprocess
import sys

import pytest
from small_shop import CATEGORIES, DAYS, EVE, LAST
from test_kills import content

from ml.night import night_lists
from ml.tables import TABLES
from pipelines import flows
from pipelines.run import RunFailedError, Runner

MEGABYTE = 2**20
ROOM = 24 * MEGABYTE
"""What a night of the small shop may need beside what is published, Spark's staging included."""


def mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def small_disk(eve_shop, tmp_path):
    """A copy of the shop before its last night, whose warehouse is a small disk of its own, and that disk's size."""
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("a small disk needs Linux's tmpfs")
    shop = eve_shop.copy(tmp_path / "full")
    root = shop.folder / "warehouse"
    published = root.rename(shop.folder / "published")
    root.mkdir()
    size = sum(4096 + path.stat().st_size for path in published.rglob("*")) + ROOM
    mounted = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root))
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not permitted here ({mounted.stderr.strip()})")
    try:
        shutil.copytree(published, root, dirs_exist_ok=True)
        yield shop, size
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def fill(path):
    """Write until the disk takes no further byte, as another program of the machine might."""
    handle = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        for piece in (MEGABYTE, 4096):
            with pytest.raises(OSError, match="No space left"):
                while os.write(handle, bytes(piece)):
                    pass
    finally:
        os.close(handle)


def dated(shop):
    """Every published file of the days before the last, with its time: a night of the last day may touch none."""
    return {name: time for name, time in shop.published().items() if any(f"date={day}/" in name for day in DAYS[:-1])}


def staged(shop):
    """What writers left behind; a version that was replaced waits in `_outgoing` for its last readers."""
    return [path for path in (shop.folder / "warehouse" / "_staging").glob("*/*") if path.parent.name != "_outgoing"]


def test_a_full_disk_stops_the_night_in_words_and_room_lets_it_end(small_disk, shop, monkeypatch):
    import duckdb

    full, size = small_disk
    root = full.folder / "warehouse"
    night_rows, before = night_lists.night_rows, dated(full)
    assert any(name.startswith("recommendations/") for name in before)

    def rows_on_a_full_disk(task, warehouse):
        if task.category == "Footwear":
            fill(root / "ballast")
        return night_rows(task, warehouse)

    monkeypatch.setattr(night_lists, "night_rows", rows_on_a_full_disk)
    with pytest.raises(RunFailedError) as error:
        flows.nightly(Runner(full.settings), LAST)
    words = str(error.value)
    assert "recommendations" in words and "category=Footwear" in words
    assert f"the disk is full. Free some space where {root} lies and run again" in words
    assert "Errno" not in words and "Traceback" not in words

    assert staged(full) == []
    assert dated(full) == before
    assert [c for c in CATEGORIES if full.warehouse.exists("recommendations", date=LAST, category=c)] == ["Clothing"]
    last = {"date": LAST, "category": "Clothing"}
    assert full.rows("recommendations", **last) == shop.rows("recommendations", **last)
    for table in TABLES:
        if full.warehouse.exists(table):
            full.warehouse.read(table)
    glob = f"{root}/recommendations/date=*/category=*/*.parquet"
    counts = dict(duckdb.sql(f"SELECT date::VARCHAR, count(*) FROM read_parquet('{glob}') GROUP BY date").fetchall())
    eve = sum(len(shop.rows("recommendations", date=EVE, category=category)) for category in CATEGORIES)
    assert counts == {EVE: eve, LAST: len(full.rows("recommendations", **last))}

    monkeypatch.undo()
    grown = mount("-o", f"remount,size={size + 2 * ROOM}", str(root))
    assert grown.returncode == 0, grown.stderr
    flows.nightly(Runner(full.settings), LAST)
    assert content(full) == content(shop)
    assert staged(full) == []
    assert dated(full) == before
