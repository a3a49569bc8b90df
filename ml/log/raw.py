"""The raw log: which days there are, and their rows with the contract's columns, read but not yet judged."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ml.errors import BadInputError
from ml.log import coerce
from ml.log.files import InputFile, list_files, probe
from ml.log.spark_files import MALFORMED, SOURCE, read_groups

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

logger = logging.getLogger(__name__)

REQUIRED = ("event_id", "user_id", "event_time", "action", "item_id")
OPTIONAL = ("session_id", "query", "position")
COLUMNS = ("event_id", "user_id", "session_id", "event_time", "action", "item_id", "query", "position")
UNREAD = "unread"
"""Column of a raw frame: map from column to original text, of values that are not of the contract's type."""
LINE = "line"
"""Key of `UNREAD` under which a line stands that is not a row at all."""
_PARTITION = re.compile(r"event_date=(\d{4}-\d{2}-\d{2})")
_EXPECTED = {
    "event_time": ("a time or ISO text (2026-11-20T09:30:00Z)", coerce.is_time, coerce.TIME_PATTERN),
    "position": ("whole numbers", coerce.is_number, coerce.INTEGRAL_PATTERN),
}
_WORD = ("text or whole numbers", coerce.is_number, None)
_RAW_SCHEMA = (
    "event_id string, user_id string, session_id string, event_time timestamp, action string, item_id string, "
    "query string, position int, source_file string, unread map<string,string>"
)


def raw_days(raw_log: Path) -> list[str]:
    """Return the days that have a folder event_date=YYYY-MM-DD, sorted.

    Raises BadInputError where there is none, or one whose date is no date.
    """
    if not raw_log.is_dir():
        raise BadInputError(f"raw_log {raw_log}: no such folder. Expected one with event_date=YYYY-MM-DD/ folders.")
    days = []
    for folder in raw_log.glob("event_date=*"):
        match = _PARTITION.fullmatch(folder.name)
        try:
            days.append(date.fromisoformat(match[1] if match else folder.name).isoformat())
        except ValueError:
            raise BadInputError(f"{folder}: expected a folder named event_date=YYYY-MM-DD. Rename it.") from None
    if not days:
        raise BadInputError(f"raw_log {raw_log}: expected folders named event_date=YYYY-MM-DD, found none.")
    return sorted(days)


def partition_window(days: Sequence[str], late_days: int) -> list[str]:
    """Return the raw partitions that `days` are made from: of each, the one before it to `late_days` after it."""
    spans = (range(-1, late_days + 1) for _ in days)
    return sorted(
        {(date.fromisoformat(d) + timedelta(n)).isoformat() for d, span in zip(days, spans, strict=True) for n in span}
    )


def days_made_from(partition: str, late_days: int) -> list[str]:
    """Return the days whose `interactions` can change with the raw partition: `partition_window` the other way round.

    Day D is made from D−1 … D+`late_days`, so partition P counts for P−`late_days` … P+1 and no other day: a duplicate
    is resolved inside a day's own window, and a search looks for its category on its own day alone.
    """
    return [(date.fromisoformat(partition) + timedelta(n)).isoformat() for n in range(-late_days, 2)]


def read_raw(spark: SparkSession, raw_log: Path, days: Sequence[str]) -> DataFrame:
    """Return the rows of the raw partitions `days` (see `partition_window`), Parquet, CSV and JSON lines alike.

    Columns: the contract's, `source_file` (below `raw_log`) and `unread`. Days without a folder have no rows. Missing
    optional columns are null, other columns are left out and named in the log. Every file is read to its end first:
    BadInputError names the file that cannot be read, lacks a required column, or has one of the wrong type.
    """
    paths = [path for day in sorted(set(days)) for path in list_files(raw_log / f"event_date={day}")]
    files = probe(paths, raw_log, COLUMNS)
    for file in files:
        _check_columns(file)
    _tell_extra_columns(files)
    frame = read_groups(spark, files, raw_log, COLUMNS, False, _to_contract)
    return spark.createDataFrame([], _RAW_SCHEMA) if frame is None else frame


def extra_columns(files: Sequence[InputFile]) -> dict[str, int]:
    """Return the columns that the contract does not know, with the number of files that have each."""
    counts: dict[str, int] = {}
    for file in files:
        for name in set(file.types) - set(COLUMNS):
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _tell_extra_columns(files: Sequence[InputFile]) -> None:
    for name, count in extra_columns(files).items():
        logger.info("raw log: column %r of %d files is not in the contract and is left out", name, count)


def _check_columns(file: InputFile) -> None:
    # JSON lines usually leave out what is null, and a day may hold searches only.
    required = [name for name in REQUIRED if file.format != "json" or name != "item_id"]
    missing = [name for name in required if name not in file.types]
    if missing and (file.format != "json" or file.types):
        raise BadInputError(
            f"{file.path}: required column {missing[0]!r} is missing; found {sorted(file.types)}. "
            "Rename or add it where the raw log is written."
        )
    for name in COLUMNS:
        kind = file.types.get(name, "null")
        if kind != "null":
            _check_type(file, name, kind)


def _check_type(file: InputFile, name: str, kind: str) -> None:
    """Raise unless the column's stored type, and one of its first values at least, can be what the contract wants."""
    expected, fits, pattern = _EXPECTED.get(name, _WORD)
    found = None if fits(kind) or coerce.is_text(kind) else kind
    if kind in coerce.FLOATS:
        pattern = coerce.INTEGRAL_PATTERN
    elif not coerce.is_text(kind):
        pattern = None
    if found is None and pattern is not None and name in file.head.column_names:
        values = [text for text in map(_plain, file.head.column(name).to_pylist()) if text not in {"", "nan"}]
        if values and not any(re.match(pattern, value) for value in values):
            found = f"{kind} such as {values[0][:40]!r}"
    if found is not None:
        raise BadInputError(
            f"{file.path}: column {name!r} holds {found}; expected {expected}. Mend it where the raw log is written."
        )


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:f}"
    return value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else str(value or "").strip()


def _to_contract(frame: DataFrame, types: dict[str, str]) -> DataFrame:
    """Convert a group's columns to the contract's types, with what could not be converted in `unread`."""
    from pyspark.sql import functions as F

    converters = {"event_time": coerce.to_time, "position": coerce.to_position}
    values, strays = {}, {LINE: F.col(MALFORMED)}
    for name in COLUMNS:
        if name in types:
            values[name], stray = converters.get(name, coerce.to_id)(F.col(name), types[name])
            if stray is not None:
                strays[name] = stray
        else:
            values[name] = F.lit(None).cast({"event_time": "timestamp", "position": "int"}.get(name, "string"))
    unread = F.map_filter(
        F.create_map(*(part for key, stray in strays.items() for part in (F.lit(key), stray))),
        lambda _, text: text.isNotNull(),
    )
    return frame.select(
        *(column.alias(name) for name, column in values.items()),
        F.col(SOURCE).alias("source_file"),
        unread.alias(UNREAD),
    )
