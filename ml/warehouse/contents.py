"""What a partition's files hold: rows put into a table's schema, written as Parquet, and checked before publication."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from ml.errors import HemlineError
from ml.tables import Table
from ml.warehouse.paths import describe

ROW_GROUP = 65_536
"""Rows per Parquet row group: what a writer holds in memory, and what a reader can skip."""
_CHECK_MEMORY = "1GB"


class TableCheckError(HemlineError):
    """Rows that do not meet their table's contract (columns, types, required values, key); nothing was published."""


def sort_columns(table: Table) -> list[str]:
    """The columns that order a partition's rows, so that the same rows give the same bytes: the key, else all plain."""
    return list(table.key) or [c.name for c in table.columns if not pa.types.is_nested(c.type)]


def conform(table: Table, levels: Mapping[str, str], data: pa.Table) -> pa.Table:
    """Return `data` with exactly the table's columns, types and descriptions; level columns are left out.

    Only spellings of the same type are converted (large or dictionary-encoded strings, a column of nulls, names of list
    elements). Raises `TableCheckError` for a missing, extra or wrongly typed column and for a null that may not be.
    """
    check_columns(table, levels, {field.name: str(field.type) for field in data.schema})
    wrong = [
        f"{c.name} is {data.schema.field(c.name).type}, expected {c.type}"
        for c in table.columns
        if not same_type(data.schema.field(c.name).type, c.type)
    ]
    if wrong:
        raise TableCheckError(f"{describe(table.name, levels)}: {'; '.join(wrong)}")
    nulls = {c.name: data.column(c.name).null_count for c in table.columns if c.required}
    _refuse_nulls(table, levels, nulls)
    return pa.Table.from_arrays([data.column(c.name).cast(c.type) for c in table.columns], schema=table.schema)


def check_columns(table: Table, levels: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise `TableCheckError` unless `found` (name to type) has the table's columns and, levels aside, no other."""
    missing = [f"{c.name} ({c.type})" for c in table.columns if c.name not in found]
    extra = [name for name in found if name not in table.names and name not in table.levels]
    if missing or extra:
        parts = [f"missing {', '.join(missing)}"] * bool(missing) + [f"not expected {', '.join(extra)}"] * bool(extra)
        raise TableCheckError(f"{describe(table.name, levels)}: columns {'; '.join(parts)}")


def same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether two Arrow types hold the same values: nullability, element names and string widths do not count."""
    types = pa.types
    if types.is_null(found):
        return True
    if types.is_dictionary(found):
        return same_type(found.value_type, expected)
    if types.is_string(expected):
        return types.is_string(found) or types.is_large_string(found) or types.is_string_view(found)
    if types.is_timestamp(expected):
        zones = {"UTC", "+00:00", "Etc/UTC"}
        return types.is_timestamp(found) and found.unit == expected.unit and found.tz in zones
    if types.is_map(expected):
        return (
            types.is_map(found)
            and same_type(found.key_type, expected.key_type)
            and same_type(found.item_type, expected.item_type)
        )
    if types.is_list(expected):
        return (types.is_list(found) or types.is_large_list(found)) and same_type(found.value_type, expected.value_type)
    if types.is_struct(expected):
        if not types.is_struct(found) or [f.name for f in found] != [f.name for f in expected]:
            return False
        return all(same_type(a.type, b.type) for a, b in zip(found, expected, strict=True))
    return found == expected


def write_rows(table: Table, levels: Mapping[str, str], data: pa.Table | Iterable[pa.RecordBatch], path: Path) -> None:
    """Write one Parquet file: a table's rows sorted by key, batches as they come; no rows still make a file."""
    import pyarrow.parquet as pq

    if isinstance(data, pa.Table):
        rows = conform(table, levels, data)
        pieces = [rows.sort_by([(name, "ascending") for name in sort_columns(table)])]
    else:
        pieces = (conform(table, levels, pa.Table.from_batches([batch])) for batch in data)
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        # Row groups are cut by row count alone: how the rows came in pieces must not show in the bytes.
        for group in _row_groups(pieces):
            writer.write_table(group, row_group_size=ROW_GROUP)


def _row_groups(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    rows = 0
    for piece in pieces:
        waiting.append(piece)
        rows += piece.num_rows
        if rows >= ROW_GROUP:
            merged = pa.concat_tables(waiting)
            whole = rows - rows % ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                yield merged.slice(start, ROW_GROUP).combine_chunks()
            waiting, rows = [merged.slice(whole)], rows - whole
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def check_files(table: Table, levels: Mapping[str, str], files: Sequence[Path], small_bytes: int, spill: Path) -> int:
    """Check staged Parquet files against the table's contract and return their row count.

    Up to `small_bytes` on disk in memory; above, DuckDB streams them and spills below `spill`. Raises
    `TableCheckError`.
    """
    import pyarrow.parquet as pq

    for path in files:
        schema = pq.read_schema(path)
        check_columns(table, levels, {f.name: str(f.type) for f in schema})
        if schema.names != table.names or not all(same_type(schema.field(c.name).type, c.type) for c in table.columns):
            raise TableCheckError(f"{describe(table.name, levels)}: staged {path.name} has the schema {schema}")
    if sum(path.stat().st_size for path in files) <= small_bytes:
        rows, nulls, repeated = _count_in_memory(table, files)
    else:
        rows, nulls, repeated = _count_streaming(table, files, spill)
    _refuse_nulls(table, levels, nulls)
    if repeated:
        raise TableCheckError(
            f"{describe(table.name, levels)}: {repeated} values of the key ({', '.join(table.key)}) stand in more than "
            f"one row, expected each once"
        )
    return rows


def _refuse_nulls(table: Table, levels: Mapping[str, str], nulls: Mapping[str, int]) -> None:
    bad = [f"{name} ({count})" for name, count in nulls.items() if count]
    if bad:
        raise TableCheckError(f"{describe(table.name, levels)}: null in required columns {', '.join(bad)}")


def _count_in_memory(table: Table, files: Sequence[Path]) -> tuple[int, dict[str, int], int]:
    import pyarrow.parquet as pq

    needed = sorted({c.name for c in table.columns if c.required} | set(table.key))
    parts = [pq.ParquetFile(path).read(columns=needed) for path in files]
    data = pa.concat_tables(parts, promote_options="permissive")
    nulls = {c.name: data.column(c.name).null_count for c in table.columns if c.required}
    repeated = 0
    if table.key:
        counts = data.group_by(list(table.key)).aggregate([([], "count_all")]).column("count_all")
        repeated = int((counts.to_numpy() > 1).sum())
    return data.num_rows, nulls, repeated


def _count_streaming(table: Table, files: Sequence[Path], spill: Path) -> tuple[int, dict[str, int], int]:
    import duckdb

    required = [c.name for c in table.columns if c.required]
    source = "read_parquet($files, hive_partitioning=false)"
    parameters = {"files": [str(path) for path in files]}
    settings = {"temp_directory": str(spill), "memory_limit": _CHECK_MEMORY, "threads": 2}
    try:
        with duckdb.connect(config=settings) as connection:
            counts = ", ".join(["count(*)", *(f'count("{name}")' for name in required)])
            rows, *known = connection.execute(f"SELECT {counts} FROM {source}", parameters).fetchall()[0]
            repeated = 0
            if table.key:
                key = ", ".join(f'"{name}"' for name in table.key)
                query = f"SELECT count(*) FROM (SELECT 1 FROM {source} GROUP BY {key} HAVING count(*) > 1)"
                repeated = connection.execute(query, parameters).fetchall()[0][0]
    except duckdb.IOException as error:
        raise OSError(errno.EIO, str(error)) from error
    return rows, {name: rows - count for name, count in zip(required, known, strict=True)}, repeated
