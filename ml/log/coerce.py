"""Columns of any stored type as the type the contract wants, where that is safe; the rest is marked, never guessed.

A conversion is a pair of Spark columns: the value, and the original as text where it could not be converted. Types
are those of `ml.log.files.InputFile.types`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml.log.files import TEXT

if TYPE_CHECKING:
    from pyspark.sql import Column

MAX_ID_CHARS = 256
HIDDEN = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]"
"""Control, format and line characters, which no id has."""
TIME_PATTERN = r"^\s*\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?\s*(Z|[+-]\d{2}(:?\d{2})?)?)?\s*$"
"""ISO 8601 dates and times; without an offset they are UTC. Also valid as a Python pattern."""
INTEGRAL_PATTERN = r"^\s*[+-]?\d{1,18}(\.0*)?\s*$"
_INTEGERS = {"tinyint", "smallint", "int", "bigint"}
FLOATS = {"float", "double"}
"""Stored types whose values may have a fraction, where only whole numbers can be meant."""
_UNITS = {"timestamp[milliseconds]", "timestamp[microseconds]", "timestamp[nanoseconds]"}


def is_text(kind: str) -> bool:
    """Whether a column of this stored type holds text."""
    return kind in {TEXT, "string", "binary"}


def is_number(kind: str) -> bool:
    """Whether a column of this stored type holds numbers."""
    return kind in _INTEGERS | FLOATS or kind.startswith("decimal")


def is_time(kind: str) -> bool:
    """Whether a column of this stored type holds days or times."""
    return kind in _UNITS | {"timestamp", "date"}


def read_type(kind: str) -> str:
    """The Spark type to read a column of this stored type with."""
    return "string" if kind == TEXT else "bigint" if kind in _UNITS else kind


def to_id(column: Column, kind: str) -> tuple[Column, Column | None]:
    """Ids and words as text; whole numbers too, also where a data frame with gaps made them floats."""
    from pyspark.sql import functions as F

    if not is_number(kind) or kind in _INTEGERS:
        return column.cast("string"), None
    known = column.isNotNull() if kind not in FLOATS else column.isNotNull() & ~F.isnan(column)
    whole = column.try_cast("decimal(38,0)")
    good = known & (whole == column)
    return F.when(good, whole.cast("string")), F.when(known & ~F.coalesce(good, F.lit(False)), column.cast("string"))


def to_position(column: Column, kind: str) -> tuple[Column, Column | None]:
    """A position as int32; whole floats and digits too."""
    from pyspark.sql import functions as F

    if kind in {"tinyint", "smallint", "int"}:
        return column.cast("int"), None
    text, bad = (column.cast("string"), None) if is_text(kind) else to_id(column, kind)
    digits = F.regexp_replace(F.trim(text), r"\.0*$", "")
    value = F.when(text.rlike(INTEGRAL_PATTERN), digits.try_cast("int"))
    stray = F.when((F.trim(text) != "") & value.isNull(), text)
    return value, stray if bad is None else F.coalesce(bad, stray)


def to_time(column: Column, kind: str) -> tuple[Column, Column | None]:
    """A point in time, of a year with four digits; times without a zone are UTC."""
    from pyspark.sql import functions as F

    if is_text(kind):
        text = column.cast("string")
        value = F.when(text.rlike(TIME_PATTERN), F.trim(text).try_cast("timestamp"))
    elif kind in _UNITS:
        micros = {
            "timestamp[milliseconds]": F.try_multiply(column, F.lit(1000)),
            "timestamp[nanoseconds]": F.call_function("div", column, F.lit(1000)),
        }.get(kind, column)
        text, value = column.cast("string"), F.timestamp_micros(micros)
    else:
        text, value = column.cast("string"), column.cast("timestamp")
    sane = value.between(F.lit("1900-01-01").cast("timestamp"), F.lit("9999-01-01").cast("timestamp"))
    value = F.when(sane, value)
    return value, F.when((F.trim(text) != "") & value.isNull(), text)
