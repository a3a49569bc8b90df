"""`kill -9` in the middle of a night, twice, then the night again: the tables of a night that was never killed."""

import signal
import subprocess
import sys
from pathlib import Path

from small_shop import LAST

from pipelines import flows
from pipelines.run import Runner

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

point = sys.argv[2]
if point == "a chunk is written":
    import ml.generation.chunks as chunks
    write = chunks._write
    chunks._write = lambda path, answers: (write(path, answers), die())
else:
    import ml.recommend.promises as promises
    assert callable(promises.check_promises)
    promises.check_promises = die  # the first partition is staged, nothing of it is visible

from small_shop import LAST, Shop
from pipelines import flows
from pipelines.run import Runner
flows.nightly(Runner(Shop(Path(sys.argv[1])).settings), LAST)
"""


def content(shop):
    """Every published row of the last day, whatever the files are called."""
    tables = ["interactions", "user_histories", "realised"]
    made = {name: shop.rows(name, date=LAST) for name in tables}
    for table in ("generations", "recommendations"):
        made[table] = [
            (category, row)
            for category in shop.warehouse.level_values(table, "category", date=LAST)
            for row in shop.rows(table, date=LAST, category=category)
        ]
    return made


def test_a_night_killed_twice_and_run_again_ends_in_the_same_tables(eve_shop, shop, tmp_path):
    broken = eve_shop.copy(tmp_path / "broken")
    script = KILLED.format(tests=str(ROOT / "tests"))
    chunks = broken.folder / ".hemline" / "work" / "generations"
    old = set(chunks.rglob("*.parquet"))
    for point in ("a chunk is written", "recommendations are staged"):
        child = subprocess.run(
            [sys.executable, "-c", script, str(broken.folder), point], cwd=ROOT, capture_output=True, text=True
        )
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert not broken.warehouse.exists("recommendations", date=LAST, category="Clothing")
        if point == "a chunk is written":
            (kept,) = set(chunks.rglob("*.parquet")) - old
            written = kept.stat().st_mtime_ns
    assert kept.stat().st_mtime_ns == written, "the finished chunk was used, not made again"
    flows.nightly(Runner(broken.settings), LAST)
    assert content(broken) == content(shop)
    assert set(broken.published()) == {name for name in shop.published() if not name.startswith("evaluation_")}
    with Runner(broken.settings).instance() as instance:
        assert instance.get_runs(limit=1)[0].is_success
