"""DuckDB over published files: what a query needs of them is streamed, and not held whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@contextmanager
def parquet_views(**tables: Sequence[Path | str]) -> Iterator[DuckDBPyConnection]:
    """A connection that sees each list of Parquet files, none of them empty, as a view; columns as in the files."""
    import duckdb

    with duckdb.connect() as connection:
        for name, files in tables.items():
            connection.read_parquet([str(path) for path in files], hive_partitioning=False).create_view(name)
        yield connection
