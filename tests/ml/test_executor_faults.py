"""`kill -9` of a Spark executor, a process of its own, in the middle of a publication; readers look on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_warehouse_faults import DAY, PROJECT, published, readers, root, version

from ml.warehouse import Warehouse
from tests.ml.spark_cluster import SHORT_LIVED, own_spark_home

__all__ = ["root"]  # a fixture

PUBLISH = """
import json, signal, sys, threading, time
from pathlib import Path
sys.path[:0] = [{here!r}]

import psutil
from test_warehouse_faults import DAY, version
from ml.settings import SparkSettings
from ml.spark import spark_session
from ml.tables import TABLES
from ml.warehouse import Warehouse
from ml.warehouse.spark_io import spark_schema

root, work = Path(sys.argv[1]), Path(sys.argv[2])
conf = {"spark.executor.memory": "512m", "spark.task.maxFailures": "2",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "100"}
settings = SparkSettings(master="local-cluster[1,1,1024]", driver_memory="512m", shuffle_partitions=1, conf=conf)
spark = spark_session(settings)
(driver,) = [p for p in psutil.Process().children() if p.name() == "java"]

def dying(deaths):
    # Passes rows on; kills its executor in the middle of them, `deaths` times. Sent by value: it imports for itself.
    def rows(batches):
        import psutil
        for number, batch in enumerate(batches):
            yield batch
            dead = sorted(work.glob("dead-*"))
            if number == 1 and len(dead) < deaths:
                executor = next(p for p in psutil.Process().parents() if p.name() == "java")
                (work / f"dead-{len(dead)}").write_text(str(executor.pid))
                executor.kill()
    return rows

def kill_at_the_file():
    # Stops the executor as soon as its Parquet file is there, and kills it if the file is not finished.
    while not (found := list((root / "_staging" / "recommendations").rglob("part-*.parquet"))):
        time.sleep(0.0005)
    (executor,) = [p for p in driver.children() if p.name() == "java"]
    executor.send_signal(signal.SIGSTOP)
    if found[0].exists() and "_temporary" in str(found[0]):
        (work / "dead-0").write_text(str(executor.pid))
        executor.kill()
    else:
        executor.send_signal(signal.SIGCONT)

def publish(number, deaths, watch=None):
    for path in work.glob("dead-*"):
        path.unlink()
    rows = spark.createDataFrame(version(number).to_pandas(), schema=spark_schema(TABLES["recommendations"]))
    rows = rows.coalesce(1).mapInArrow(dying(deaths), rows.schema)  # a shuffle would be tried again as a whole
    if watch:
        threading.Thread(target=watch, daemon=True).start()
    try:
        Warehouse(root).publish_frame("recommendations", rows, date=DAY, category="Clothing")
    except Exception as error:
        return [f"{type(error).__name__}: {error}", [p.read_text() for p in work.glob("dead-*")]]
    return ["published", [p.read_text() for p in work.glob("dead-*")]]

print(json.dumps([str(driver.pid), publish(1, 1), publish(2, 0, kill_at_the_file), publish(3, 99)]))
spark.stop()
"""


@pytest.mark.timeout(300)
def test_a_killed_executors_rows_are_written_again_and_one_that_always_dies_publishes_nothing(root, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "SPARK_HOME": own_spark_home(tmp_path / "spark")}
    environment["JAVA_TOOL_OPTIONS"] = SHORT_LIVED
    script = PUBLISH.replace("{here!r}", repr(str(Path(__file__).parent)))
    with readers(root, tmp_path, pause=0.2):
        done = subprocess.run(
            [sys.executable, "-c", script, str(root), str(work)],
            cwd=tmp_path, capture_output=True, text=True, env=environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    driver, (in_rows, one), (in_file, two), (always, more) = json.loads(done.stdout.splitlines()[-1])
    assert len({driver, *one, *two, *more}) == 5, "each an executor of its own"
    assert in_rows == "published" and len(one) == 1, "Spark started another executor and tried again"
    assert in_file == "published" and len(two) == 1, "in the middle of a Parquet file too"
    assert "ExecutorLostFailure" in always and len(more) == 2, "it fails loudly"
    assert published(root, "Clothing") == 2, "and what was published stays"
    unbroken = Warehouse(tmp_path / "unbroken")
    unbroken.publish("recommendations", version(2), date=DAY, category="Clothing")
    names = [w.content("recommendations", date=DAY, category="Clothing") for w in (Warehouse(root), unbroken)]
    assert names[0] == names[1], "the bytes of an unbroken publication"
    assert list((root / "_staging" / "recommendations").iterdir()) == []
