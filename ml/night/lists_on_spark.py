"""A night's lists on Spark's executors: a task takes a range of customers, a worker loads the models once.

The executors need the warehouse, `home` and the models' folders under the same paths as this process (a file system
they share), and this process's packages. What is counted of all histories is counted here and sent to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ml.night.night_lists import NightLists, NightTask
from ml.night.parts import BATCH_USERS
from ml.spark import executors_words
from ml.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@contextmanager
def night_frame(spark: SparkSession, task: NightTask, customers: int = BATCH_USERS) -> Iterator[DataFrame]:
    """A frame of everybody's lists that makes them, `customers` a task, when it is written in the block.

    Raises HemlineError with an executor's own error where lists cannot be made.
    """
    from ml.warehouse.spark_io import spark_schema

    context = spark.sparkContext
    ranges = list(task.ranges(customers))
    schema = spark_schema(TABLES["recommendations"])
    if not ranges:
        yield spark.createDataFrame([], schema)
        return
    shared = context.broadcast((task, task.count(task.fusion())))
    asked = spark.createDataFrame(context.parallelize(ranges, len(ranges)), "first string, last string")
    try:
        with executors_words(f"lists of {task.category}"):
            yield asked.mapInArrow(_lists_with(shared), schema)
    finally:
        shared.unpersist()


def _lists_with(shared: Any) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:  # a Spark broadcast
    def make(ranges: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        task, counted = shared.value
        for batch in ranges:
            for row in batch.to_pylist():
                yield from _loaded(task, counted).rows(row["first"], row["last"]).to_batches()

    return make


_LISTS: list[tuple[NightTask, NightLists]] = []
"""What this Python worker has loaded, for the newest task: Spark gives it range after range."""


def _loaded(task: NightTask, counted: Any) -> NightLists:
    from ml.warehouse import open_warehouse

    if not _LISTS or _LISTS[0][0] is not task:
        _LISTS.clear()  # the memory of one is what was planned for
        _LISTS.append((task, NightLists(task, open_warehouse(task.settings), task.fusion(), counted)))
    return _LISTS[0][1]
