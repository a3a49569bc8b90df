"""Where a partition lies: Hive folder names, written as Spark and Hive write them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

from ml.errors import BadInputError
from ml.tables import TABLES, Table

_ENCODED = re.compile(r"""[\x01-\x1f\x7f"#%'*/:=?\\{\[\]^]""")
"""What Spark percent-encodes in a partition value (`ExternalCatalogUtils.charToEscape`); all else stays readable."""


def table_named(name: str) -> Table:
    """The table called `name`; `BadInputError` with the known names if there is none."""
    if name not in TABLES:
        raise BadInputError(f"unknown table {name!r}: expected one of {', '.join(sorted(TABLES))}")
    return TABLES[name]


def level_folder(level: str, value: str) -> str:
    """The folder name `level=value`; a `date` must be YYYY-MM-DD, any value non-empty and without NUL."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadInputError(f"level {level}: expected a non-empty text without NUL, got {value!r}")
    if level == "date" and not _is_day(value):
        raise BadInputError(f"level date: expected a day as YYYY-MM-DD, got {value!r}")
    folder = f"{level}=" + _ENCODED.sub(lambda m: f"%{ord(m.group()):02X}", value)
    if len(folder.encode()) > 255:
        raise BadInputError(f"level {level}: {value[:40]!r}… is too long for a folder name")
    return folder


def _is_day(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def partition_path(table: Table, levels: Mapping[str, str]) -> Path:
    """The partition's path below the root; outer levels alone give the folder that holds their partitions."""
    unknown = sorted(set(levels) - set(table.levels))
    given = [level for level in table.levels if level in levels]
    if unknown or given != list(table.levels[: len(given)]):
        raise BadInputError(
            f"table {table.name}: expected levels {list(table.levels)}, outermost first, got {sorted(levels)}"
        )
    return Path(table.name, *(level_folder(level, levels[level]) for level in given))


def outermost(table: Table, levels: Mapping[str, str]) -> dict[str, str]:
    """The given levels that come before any that is not given; `BadInputError` for one the table does not have."""
    unknown = sorted(set(levels) - set(table.levels))
    if unknown:
        raise BadInputError(f"table {table.name}: has levels {list(table.levels)}, got {unknown}")
    return {level: levels[level] for level in takewhile(levels.__contains__, table.levels)}


def values_of(table: Table, partition: Path) -> dict[str, str]:
    """A partition's level values, from its path below the root."""
    folders = zip(table.levels, partition.parts[1:], strict=True)
    return {level: unquote(folder.removeprefix(f"{level}=")) for level, folder in folders}


def partitions(root: Path, table: Table, levels: Mapping[str, str]) -> Iterator[tuple[dict[str, str], list[Path]]]:
    """Every published partition that has the given level values: all its level values, and its files, sorted."""
    outermost(table, levels)
    yield from _walk(root / table.name, list(table.levels), levels, {})


def _walk(
    folder: Path, rest: list[str], wanted: Mapping[str, str], found: dict[str, str]
) -> Iterator[tuple[dict[str, str], list[Path]]]:
    if not folder.is_dir():
        return
    if not rest:
        if files := [folder / name for name in _listing(folder) if name.endswith(".parquet")]:
            yield found, files
        return
    level = rest[0]
    if level in wanted:
        yield from _walk(folder / level_folder(level, wanted[level]), rest[1:], wanted, found | {level: wanted[level]})
        return
    prefix = f"{level}="
    for child in sorted(folder.iterdir()):
        if child.name.startswith(prefix):
            yield from _walk(child, rest[1:], wanted, found | {level: unquote(child.name.removeprefix(prefix))})


def _listing(folder: Path) -> list[str]:
    """Return a partition's file names, sorted, as one moment had them.

    A folder that is replaced between being opened and being listed may be half deleted, or empty: list again.
    """
    try:
        while True:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with os.scandir(opened) as entries:
                    names = sorted(entry.name for entry in entries)
                if os.path.samestat(os.fstat(opened), folder.stat()):  # held open, nothing new gets its number
                    return names
            finally:
                os.close(opened)
    except FileNotFoundError:
        return []  # removed from the table


def describe(table: str, levels: Mapping[str, str]) -> str:
    """The partition in words, for messages."""
    values = "/".join(f"{level}={value}" for level, value in levels.items())
    return f"table {table}, partition {values}" if values else f"table {table}"
