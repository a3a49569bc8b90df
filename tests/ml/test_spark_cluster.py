"""Executors in other processes (Spark's local-cluster): the same tables and the same answers as in this process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from log_shop import make_log_shop
from pyspark.sql import DataFrameWriter

from ml.errors import HemlineError
from ml.generation import generate_in_chunks, generate_on_spark
from ml.tables import TABLES
from ml.warehouse import Warehouse, spark_io
from tests.ml import spark_cluster

REALISED = TABLES["realised"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A small shop that the script has taken through its stages on a cluster; the shop's folder and the warehouse."""
    folder = tmp_path_factory.mktemp("cluster")
    shop = make_log_shop(folder / "shop")
    spark_cluster.answer_task(shop.folder / "answering")
    # Without a path to the sources: executors have the code that is sent to them.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    home = spark_cluster.own_spark_home(folder / "spark")
    environment |= {"SPARK_HOME": home, "JAVA_TOOL_OPTIONS": spark_cluster.SHORT_LIVED}
    command = [sys.executable, "-m", "tests.ml.spark_cluster", str(shop.folder), str(folder / "warehouse")]
    with (folder / "log").open("wb") as log:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=500)
    assert done.returncode == 0, (folder / "log").read_text()[-6000:]
    return shop, folder / "warehouse"


def test_the_tables_are_those_of_local_mode(cluster, spark):
    shop, warehouse = cluster
    local = spark_cluster.publish(shop.settings, spark)
    assert local == {name: Warehouse(warehouse).content(name, **at) for name, at in spark_cluster.TABLES.items()}
    assert all(len(files) == 1 for files in local.values())


def test_executors_are_other_processes_with_the_code_that_was_sent(cluster):
    driver, workers = json.loads((cluster[0].folder / "executors.json").read_text())
    processes, parents, code, gpus = (set(values) for values in zip(*workers, strict=True))
    assert len(processes) == 2 and len(parents) == 2 and driver not in processes | parents
    assert all("hemline.zip" in path and str(ROOT) not in path for path in code)
    assert gpus == {spark_cluster.GPU}, "each worker took the GPU that Spark gave its task"


@pytest.mark.usefixtures("one_thread")
def test_answers_on_executors_are_those_of_one_process(cluster, tmp_path):
    shop, _ = cluster
    folders, task, inputs, keys = spark_cluster.answer_task(shop.folder / "answering")
    model, tokenizer = folders.load()
    alone = generate_in_chunks(
        model, tokenizer, inputs, task.instruction_ids, task.trie, task.response_format, task.settings, keys, tmp_path,
        task.key,
    )  # fmt: skip
    made = json.loads((shop.folder / "answers.json").read_text())
    assert len({row["item_id"] for row in made}) > 5
    for here, there in zip(alone, made, strict=True):
        assert (here.item_id, here.title, here.parsed) == (there["item_id"], there["title"], there["parsed"])
        assert here.log_probability == pytest.approx(there["log_probability"], rel=1e-5)
    chunks = {path.name for path in (shop.folder / "answering" / "chunks").iterdir()}
    assert chunks == {path.name for path in tmp_path.iterdir()} and len(chunks) == 5


def test_a_killed_batch_makes_only_what_is_missing_and_an_executor_s_error_is_told(spark, tmp_path):
    folders, task, inputs, keys = spark_cluster.answer_task(tmp_path / "answering")
    answers = generate_on_spark(spark, folders, task, inputs, keys, tmp_path / "chunks")
    lost, *kept = sorted((tmp_path / "chunks").iterdir())
    lost.unlink()
    written = {path: path.stat().st_mtime_ns for path in kept}
    assert generate_on_spark(spark, folders, task, inputs, keys, tmp_path / "chunks") == answers
    assert {path: path.stat().st_mtime_ns for path in kept} == written and lost.exists()
    nowhere = replace(folders, adapter=tmp_path / "nowhere")
    with pytest.raises(HemlineError, match=r"executors: .*nowhere: no adapter here"):
        generate_on_spark(spark, nowhere, task, inputs, keys, tmp_path / "others")


def test_rows_that_executors_wrote_elsewhere_are_missed(spark, tmp_path, monkeypatch):
    """As where the warehouse is on no shared file system: Spark calls it a success, the files are on other machines."""
    warehouse, day = Warehouse(tmp_path / "warehouse"), "2026-01-01"
    frame = spark.createDataFrame([("c", "all", "recall", 1.0, 0.0, 1.0, 1, 1)], spark_io.spark_schema(REALISED))
    real = DataFrameWriter.parquet
    monkeypatch.setattr(DataFrameWriter, "parquet", lambda self, path: real(self, f"file://{tmp_path}/elsewhere"))
    with pytest.raises(HemlineError, match="executors wrote 1 rows, and this machine finds 0"):
        warehouse.publish_frame("realised", frame, date=day)
    assert not warehouse.exists("realised", date=day)
    monkeypatch.undo()
    assert warehouse.publish_frame("realised", frame, date=day).rows == 1
