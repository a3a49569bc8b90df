"""Probed input files as one Spark frame: files of the same columns and types share one read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ml.log.coerce import read_type
from ml.log.files import TEXT, InputFile

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession

MALFORMED = "_malformed_line"
"""Column with the text of a line that is not a row; null for rows."""
SOURCE = "_source_file"
"""Column with the file's path below the folder that was probed."""
BLOCK = "_block_start"
"""Column with the offset of the part of the file that a task read: with the order inside the part, the file's order."""
OWN = (MALFORMED, SOURCE, BLOCK)


def read_groups(
    spark: SparkSession,
    files: Sequence[InputFile],
    root: Path,
    columns: Sequence[str] | None,
    line_breaks: bool,
    convert: Callable[[DataFrame, dict[str, str]], DataFrame],
) -> DataFrame | None:
    """Read `files` and return the union of `convert(frame, types)` over groups of equal types; None without files.

    A frame has the group's columns (of `columns`, all if None) and `OWN`. With `line_breaks`, a quoted CSV value may
    go over several lines, and a CSV file is not split among tasks. `convert` must return the same columns each time.
    """
    # A JSON line leaves out what is null, so that its files are all read with the names of any of them.
    json_names = columns or sorted({name for file in files if file.format == "json" for name in file.types})
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[InputFile]] = {}
    for file in files:
        types = dict.fromkeys(json_names, TEXT) if file.format == "json" else file.types
        # CSV is read by place, so that its whole header counts.
        kept = {n: t for n, t in types.items() if columns is None or n in columns or file.format == "csv"}
        groups.setdefault((file.format, tuple(kept.items())), []).append(file)
    union = None
    for (kind, pairs), group in groups.items():
        if not pairs:
            continue  # JSON files without a line
        types = {name: kind for name, kind in pairs if kind != "null" and not kind.startswith("other")}
        frame = convert(_read(spark, kind, types, group, root, line_breaks), types)
        union = frame if union is None else union.unionByName(frame)
    return union


def _read(
    spark: SparkSession, kind: str, types: dict[str, str], group: Sequence[InputFile], root: Path, line_breaks: bool
) -> DataFrame:
    from pyspark.sql import functions as F

    schema = {name: read_type(stored) for name, stored in types.items()}
    reader = spark.read
    if kind != "parquet":
        schema[MALFORMED] = "string"
        reader = reader.option("mode", "PERMISSIVE").option("columnNameOfCorruptRecord", MALFORMED)
    if kind == "csv":
        reader = _csv_options(reader, line_breaks)
    ddl = ", ".join(f"{quoted(name)} {spark_type}" for name, spark_type in schema.items())
    frame = reader.schema(ddl).format(kind).load([_spark_path(file.path) for file in group])
    malformed = F.lit(None).cast("string") if kind == "parquet" else F.col(MALFORMED)
    return frame.select(
        *(F.col(quoted(name)) for name in types),
        malformed.alias(MALFORMED),
        _relative_name(F.col("_metadata.file_path"), root).alias(SOURCE),
        F.col("_metadata.file_block_start").alias(BLOCK),
    )


def quoted(name: str) -> str:
    """A column's name as Spark SQL takes it, whatever characters it has."""
    return "`" + name.replace("`", "``") + "`"


def _csv_options(reader: DataFrameReader, line_breaks: bool) -> DataFrameReader:
    # Without all columns parsed, a line with too few or too many values would not be seen as malformed.
    return (
        reader.option("header", "true")
        .option("escape", '"')
        .option("columnPruning", "false")
        .option("multiLine", str(line_breaks).lower())
    )


def _spark_path(path: Path) -> str:
    """A local path for Spark, which takes {, [, *, ? in it for a pattern unless they are escaped."""
    return "file://" + "".join(f"\\{c}" if c in "{}[]*?\\" else c for c in os.path.abspath(path))  # noqa: PTH100


def _relative_name(file_path: Column, root: Path) -> Column:
    """The path below `root` of a file's URI, as the file system spells it."""
    from pyspark.sql import functions as F

    plain = F.regexp_replace(F.url_decode(F.replace(file_path, F.lit("+"), F.lit("%2B"))), "^file:/+", "/")
    return plain.substr(len(os.path.abspath(root)) + 2, 2**31 - 1)  # noqa: PTH100
