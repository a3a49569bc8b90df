"""Between Spark and the warehouse: a frame written to staging, and tables read as frames with a known schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from ml.errors import HemlineError
from ml.tables import Table
from ml.warehouse.contents import TableCheckError, check_columns, sort_columns, write_rows
from ml.warehouse.paths import describe

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

_ROWS_PER_FILE = 4_000_000


def spark_schema(table: Table, level_columns: Sequence[str] = ()) -> StructType:
    """The table's schema for Spark, every column nullable; level columns follow as strings."""
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import StringType, StructField, StructType

    fields = [StructField(c.name, from_arrow_type(c.type), True) for c in table.columns]
    return StructType(fields + [StructField(level, StringType(), True) for level in level_columns])


def conform_frame(table: Table, levels: Mapping[str, str], frame: DataFrame, keep: Sequence[str] = ()) -> DataFrame:
    """Select the table's columns (and the level columns in `keep`, as strings) after checking names and types.

    Raises `TableCheckError` before any Spark job runs. A column of nulls without a type gets the table's.
    """
    from pyspark.sql import functions as F

    found = {field.name: field.dataType.simpleString() for field in frame.schema.fields}
    check_columns(table, levels, found)
    expected = {field.name: field.dataType for field in spark_schema(table).fields}
    wrong = [
        f"{name} is {found[name]}, expected {dtype.simpleString()}"
        for name, dtype in expected.items()
        if found[name] not in (dtype.simpleString(), "void")
    ]
    if wrong:
        raise TableCheckError(f"{describe(table.name, levels)}: {'; '.join(wrong)}")
    columns = [F.col(name).cast(dtype) if found[name] == "void" else F.col(name) for name, dtype in expected.items()]
    return frame.select(*columns, *(F.col(level).cast("string").alias(level) for level in keep))


def write_frame(table: Table, levels: Mapping[str, str], frame: DataFrame, folder: Path) -> list[Path]:
    """Write the frame's rows below `folder`, in files that depend on the rows alone; returns the Parquet files."""
    order = sort_columns(table)
    parts = _shuffle_partitions(frame)
    _write(conform_frame(table, levels, frame).repartition(parts, *order), order, folder)
    return sorted(folder.glob("*.parquet"))


def write_days(table: Table, frame: DataFrame, days: Sequence[str], folder: Path) -> dict[str, list[Path]]:
    """Write the frame's rows by its `date` column, a task and (but for huge ones) a file per day; files by day.

    Raises `TableCheckError` for rows of a day that is not in `days`.
    """
    if "date" not in frame.columns:
        raise TableCheckError(f"table {table.name}: expected a column date that says each row's day")
    parts = min(len(days), max(_shuffle_partitions(frame), frame.sparkSession.sparkContext.defaultParallelism))
    rows = conform_frame(table, {}, frame, keep=["date"]).repartition(parts, "date")
    _write(rows, ["date", *sort_columns(table)], folder, "date")
    found = {unquote(p.name.removeprefix("date=")): sorted(p.glob("*.parquet")) for p in folder.glob("date=*")}
    strangers = sorted(set(found) - set(days))
    if strangers:
        raise TableCheckError(f"table {table.name}: rows of {', '.join(strangers[:5])}, which were not to be published")
    return found


def _shuffle_partitions(frame: DataFrame) -> int:
    return int(frame.sparkSession.conf.get("spark.sql.shuffle.partitions") or 1)


def _write(rows: DataFrame, order: Sequence[str], folder: Path, *by: str) -> None:
    """Write the frame's partitions in order; raise `HemlineError` unless this machine finds every row that was written.

    Executors that do not see this folder write into one of their own, and Spark calls that a success. The rows are
    counted after the shuffle: a task of the last stage counts once, however often it or one before it was tried.
    """
    import pyarrow.parquet as pq
    from pyspark.sql import Observation
    from pyspark.sql import functions as F

    written = Observation()
    counted = rows.observe(written, F.count(F.lit(1)).alias("rows"))
    writer = counted.sortWithinPartitions(*order).write.option("compression", "zstd")
    writer.option("maxRecordsPerFile", _ROWS_PER_FILE).partitionBy(*by).parquet(f"file://{folder}")
    expected = written.get["rows"]
    found = sum(pq.read_metadata(path).num_rows for path in folder.rglob("*.parquet"))
    if found != expected:
        raise HemlineError(
            f"{folder}: Spark's executors wrote {expected} rows, and this machine finds {found} of them; nothing was "
            "published. Put the warehouse on a file system that every machine of the cluster sees under the same path."
        )


def adopt_files(table: Table, levels: Mapping[str, str], files: Sequence[Path], folder: Path, small_bytes: int) -> None:
    """Bring Spark's files of one partition into `folder`.

    Up to `small_bytes` they become one file in the warehouse's own writing: fewer files for readers, with the columns'
    descriptions, and with bytes that no Spark version changes. Larger ones are moved as they are.
    """
    import pyarrow.parquet as pq

    if sum(path.stat().st_size for path in files) <= small_bytes or not files:
        parts = [pq.ParquetFile(path).read() for path in files]
        rows = pa.concat_tables(parts, promote_options="permissive") if parts else table.schema.empty_table()
        write_rows(table, levels, rows, folder / "rows.parquet")
        return
    for path in files:
        if pq.read_metadata(path).num_rows:
            path.rename(folder / path.name)


def read_frame(
    spark: SparkSession, table: Table, base: Path, partitions: Sequence[tuple[Mapping[str, str], Sequence[Path]]]
) -> DataFrame:
    """Read the files of published partitions below `base` with the table's schema; none give an empty frame.

    Levels follow as string columns, but for those that the files hold themselves.
    """
    own = [level for level in table.levels if level not in table.names]
    schema = spark_schema(table, own)
    if not partitions:
        return spark.createDataFrame([], schema)
    reader = spark.read.schema(schema)
    if own:
        reader = reader.option("basePath", f"file://{base}")
    return reader.parquet(*(f"file://{file}" for _, files in partitions for file in files))
