"""Input files before Spark sees them: which there are, whether each can be read to its end, and its columns' types.

Spark's own errors name a task, not a remedy, and a text reader replaces broken bytes in silence. So every file is
read once here, by pyarrow or Python, in bounded memory; Parquet page checksums are verified where the writer made
them. What becomes of the columns is `ml.log.raw`'s and `ml.log.catalog`'s business.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ml.errors import BadInputError

HEAD_ROWS = 1000
"""Rows of a file's beginning that are kept to tell a column of strays from a column of another kind."""
TEXT = "text"
"""Type of every column of a text format."""
_FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
_UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError, MemoryError, zlib.error, csv.Error)


@dataclass(frozen=True)
class InputFile:
    """A file that was read to its end.

    `name` is its path below the folder it was listed from; `types` has a type for every column (see `parquet_type`
    for Parquet, `TEXT` otherwise); `head` has the first rows.
    """

    path: Path
    name: str
    format: str
    types: dict[str, str]
    head: pa.Table


def list_files(folder: Path) -> list[Path]:
    """Return the data files below `folder`, sorted; names that begin with '_' or '.' are not data, as for Spark."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part[0] in "_." for part in path.relative_to(folder).parts)
    )


def probe(paths: Sequence[Path], root: Path, columns: Sequence[str] | None = None) -> list[InputFile]:
    """Read every file to its end and return what was found, in the order given.

    `columns` limits Parquet to the columns that matter. Raises BadInputError that names the first file, in that
    order, that cannot be read, what is wrong with it and what to do.
    """
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = pool.map(lambda path: _probe_file(path, root, columns), paths)
        return list(tqdm(found, total=len(paths), desc="checking input files", unit="file", disable=None))


def _probe_file(path: Path, root: Path, columns: Sequence[str] | None) -> InputFile:
    kind = file_format(path)
    try:
        if kind == "parquet":
            types, head = _probe_parquet(path, columns)
        else:
            types, head = _probe_csv(path) if kind == "csv" else _probe_json(path)
    except BadInputError:
        raise
    except _UNREADABLE as error:
        detail = str(error).strip().split("\n")[0][:300].rstrip(".") or type(error).__name__
        raise BadInputError(
            f"{path}: this {kind} file cannot be read: {detail}. "
            "It is damaged or was not written to its end: write it again at its source, or move it out of the folder."
        ) from error
    doubled = sorted({name for name in types if sum(name.lower() == other.lower() for other in types) > 1})
    if doubled:
        raise BadInputError(f"{path}: columns {doubled} differ only in case: rename or remove all but one.")
    return InputFile(path, str(path.relative_to(root)), kind, types, head)


def file_format(path: Path) -> str:
    """Return 'parquet', 'csv' or 'json' by the name's ending ('.gz' after a text format's too)."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = bool(suffixes) and suffixes[-1] == ".gz"
    kind = _FORMATS.get(suffixes[-2 if zipped else -1]) if len(suffixes) > zipped else None
    if kind is None or (zipped and kind == "parquet"):
        raise BadInputError(
            f"{path}: unknown kind of file. Expected a name that ends in .parquet, .csv, .jsonl, .ndjson or .json "
            "(text also with .gz). Rename it, or move it out of the folder."
        )
    return kind


def _probe_parquet(path: Path, columns: Sequence[str] | None) -> tuple[dict[str, str], pa.Table]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        types = {field.name: parquet_type(file, index, field.type) for index, field in enumerate(file.schema_arrow)}
        if len(types) < len(file.schema_arrow):
            raise BadInputError(f"{path}: two columns have the same name: rename or remove one.")
        wanted = [name for name in types if columns is None or name in columns]
        rows, head = 0, file.schema_arrow.empty_table().select(wanted)
        for batch in file.iter_batches(columns=wanted):
            # Text that is not UTF-8 only shows here; Spark would carry it on.
            batch.validate(full=True)
            if not rows:
                head = pa.Table.from_batches([batch.take(pa.array(range(min(HEAD_ROWS, batch.num_rows))))])
            rows += batch.num_rows
        if wanted and rows != file.metadata.num_rows:
            raise ValueError(f"its footer promises {file.metadata.num_rows} rows, {rows} are there")
    return types, head


def parquet_type(file: pq.ParquetFile, index: int, arrow: pa.DataType) -> str:
    """Return a top-level column's type as Spark reads it; 'null', 'timestamp[<unit>]' and 'other: …' are our own.

    Spark refuses nanoseconds and mixes zoned and zoneless times; all of them are int64 underneath, so they are read
    as bigint with the unit kept here. int96 times are Spark's 'timestamp'.
    """
    if pa.types.is_dictionary(arrow):
        arrow = arrow.value_type  # pyright: ignore[reportAttributeAccessIssue]
    if pa.types.is_timestamp(arrow):
        leaf = next(leaf for leaf in _leaves(file) if leaf.path == file.schema_arrow.field(index).name)
        if leaf.physical_type == "INT96":
            return "timestamp"
        return f"timestamp[{json.loads(leaf.logical_type.to_json())['timeUnit']}]"
    if pa.types.is_decimal128(arrow):
        return f"decimal({arrow.precision},{arrow.scale})"
    return _SPARK_TYPES.get(str(arrow), f"other: {arrow}")


_SPARK_TYPES = {
    **dict.fromkeys(["string", "large_string", "string_view"], "string"),
    **dict.fromkeys(["binary", "large_binary", "binary_view"], "binary"),
    **{"bool": "boolean", "float": "float", "double": "double", "null": "null"},
    **dict.fromkeys(["date32[day]", "date64[ms]"], "date"),
    **{"int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint"},
    **{"uint8": "smallint", "uint16": "int", "uint32": "bigint", "uint64": "decimal(20,0)"},
}


def _leaves(file: pq.ParquetFile) -> Iterator[pq.ColumnSchema]:
    return (file.schema.column(index) for index in range(len(file.schema)))


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file; a broken byte or a cut gzip raises."""
    if path.suffix.lower() == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield from file
    else:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from file


def _probe_csv(path: Path) -> tuple[dict[str, str], pa.Table]:
    lines = _lines(path)
    rows = csv.reader(lines)
    header = next(rows, None)
    if not header:
        raise BadInputError(f"{path}: this CSV file has no header line. Expected the column names in the first line.")
    if len(set(header)) < len(header):
        raise BadInputError(f"{path}: two columns have the same name in the header {header}: rename or remove one.")
    sample = [row for row in islice(rows, HEAD_ROWS) if len(row) == len(header)]
    columns = {name: [row[index] or None for row in sample] for index, name in enumerate(header)}
    for _ in lines:
        pass
    return dict.fromkeys(header, TEXT), pa.table(
        {name: pa.array(values, pa.string()) for name, values in columns.items()}
    )


def _probe_json(path: Path) -> tuple[dict[str, str], pa.Table]:
    head, names, lines = [], {}, 0
    for line in _lines(path):
        lines += bool(line.strip())
        row = _json_object(line)
        if row is not None:
            names |= dict.fromkeys(row)
            head += [row] if len(head) < HEAD_ROWS else []
    if lines and not head:
        raise BadInputError(f"{path}: none of its {lines} lines is a JSON object. Expected one object a line.")
    columns = {name: [_json_text(row.get(name)) for row in head] for name in names}
    texts = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    return dict.fromkeys(names, TEXT), pa.table(texts)


def _json_object(line: str) -> dict[str, object] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _json_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        # A lone surrogate ("\ud800") is valid JSON and no valid text.
        return value and value.encode("utf-8", "replace").decode()
    return json.dumps(value)
