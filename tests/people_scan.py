"""Looks for words in everything below a folder, decoded: what a person could read of it with any tool.

Parquet by values, statistics, dictionaries and metadata, token ids as text; SQLite by values, and as raw bytes with its
free pages and logs; PostgreSQL by values and statistics; JSON with its escapes resolved; NumPy, safetensors, Arrow,
archives; and every file's bytes.
"""

from __future__ import annotations

import gzip
import html
import json
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq


def findings(
    root: Path,
    words: Collection[str],
    decode: Callable[[list[int]], str] | None = None,
    leave_out: Collection[Path] = (),
) -> dict[str, set[str]]:
    """Every file below `root` that holds one of `words`, with those it holds; `decode` reads lists of token ids."""
    found: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*")):
        if not path.is_file() or any(path.is_relative_to(part) for part in leave_out):
            continue
        name = str(path.relative_to(root))
        for text in (name, *texts(path, decode)):
            held = {word for word in words if word in text}
            if held:
                found.setdefault(name, set()).update(held)
    return found


def texts(path: Path, decode: Callable[[list[int]], str] | None = None) -> Iterator[str]:
    """Everything a file says, and its bytes as they are."""
    content = path.read_bytes()
    yield content.decode("utf-8", "replace")
    yield content.decode("utf-16-le", "replace")
    if content.startswith(b"PAR1"):
        yield from _parquet(path, decode)
    elif content.startswith(b"SQLite format 3"):
        yield from _sqlite(path)
    elif content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content).decode("utf-8", "replace")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name
                yield archive.read(name).decode("utf-8", "replace")
    elif path.suffix == ".npy":
        yield str(np.load(path, allow_pickle=False).tolist())
    elif path.suffix == ".arrow":
        with pa.ipc.open_file(path) as reader:
            yield str(reader.read_all().to_pylist())
    elif path.suffix == ".safetensors":
        size = int.from_bytes(content[:8], "little")
        yield from _json(content[8 : 8 + size].decode())
    elif path.suffix in (".html", ".md"):
        yield html.unescape(content.decode("utf-8", "replace"))
    else:
        for line in (
            content.decode("utf-8", "replace").splitlines()
            if path.suffix == ".jsonl"
            else [content.decode("utf-8", "replace")]
        ):
            yield from _json(line)


def server_findings(query: Callable[[str], list[tuple]], words: Collection[str]) -> dict[str, set[str]]:
    """Every table of a PostgreSQL database that holds one of `words`, or whose statistics do, with those it holds."""
    found: dict[str, set[str]] = {}
    names = [name for (name,) in query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    rows = {name: query(f'SELECT * FROM "{name}"') for name in names}
    rows["pg_stats"] = query("SELECT most_common_vals::text, histogram_bounds::text FROM pg_stats")
    for name in rows:
        for value in (value for row in rows[name] for value in row):
            text = _unpacked(bytes(value)) if isinstance(value, bytes | memoryview) else _plain(value)
            held = {word for word in words if word in text}
            if held:
                found.setdefault(name, set()).update(held)
    return found


def _unpacked(content: bytes) -> str:
    """Bytes as text, decompressed where they are packed, as Dagster's snapshots are."""
    with suppress(zlib.error):
        content = zlib.decompress(content)
    return content.decode("utf-8", "replace")


def _json(text: str) -> Iterator[str]:
    try:
        yield _plain(json.loads(text))
    except ValueError:
        return


def _plain(value: Any) -> str:
    """A JSON value with every text in it as it is, also texts that are JSON themselves."""
    if isinstance(value, str):
        inner = "\n".join(_json(value)) if value[:1] in ("{", "[") else ""
        return f"{value}\n{inner}"
    if isinstance(value, dict):
        return "\n".join(f"{key}\n{_plain(one)}" for key, one in value.items())
    return "\n".join(_plain(one) for one in value) if isinstance(value, list) else str(value)


def _parquet(path: Path, decode: Callable[[list[int]], str] | None) -> Iterator[str]:
    file = pq.ParquetFile(path)
    rows = file.read()
    for row in rows.to_pylist():
        yield _plain(json.loads(json.dumps(row, default=str)))
        if decode is not None:
            yield from (
                decode(value)
                for value in row.values()
                if isinstance(value, list) and value and isinstance(value[0], int)
            )
    metadata = file.metadata
    yield str(metadata.metadata)
    yield str(rows.schema.metadata)
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            statistics = metadata.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max:
                yield f"{statistics.min}\n{statistics.max}"
    names = [field.name for field in rows.schema if pa.types.is_string(field.type)]
    coded = pq.read_table(path, read_dictionary=names)
    for name in names:
        for chunk in coded[name].chunks:
            yield str(chunk.dictionary.to_pylist() if isinstance(chunk, pa.DictionaryArray) else "")


def _sqlite(path: Path) -> Iterator[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in database.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    if isinstance(value, str):
                        yield _plain(value)
                    elif isinstance(value, bytes):
                        yield value.decode("utf-8", "replace")
