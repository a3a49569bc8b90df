"""Small raw logs for the tests of ingestion, written in any of the formats a shop may use."""

import csv
import gzip
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ["event_id", "user_id", "session_id", "event_time", "action", "item_id", "query", "position"]
SCHEMA = pa.schema(
    [(name, pa.timestamp("us", "UTC") if name == "event_time" else pa.int32() if name == "position" else pa.string())
     for name in COLUMNS]
)  # fmt: skip


def at(text: str) -> datetime:
    """A UTC time from 'YYYY-MM-DD HH:MM:SS'."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def event(event_id: str | None = "e1", time: datetime | str | None = "2026-03-02 10:00:00", **values: object) -> dict:
    """A sound click, changed by `values`."""
    row = {"event_id": event_id, "user_id": "u1", "session_id": None, "action": "click", "item_id": "i1"}
    return dict.fromkeys(COLUMNS) | row | {"event_time": at(time) if isinstance(time, str) else time} | values


def write_parquet(
    folder: Path, day: str, rows: Sequence[dict], name: str = "part-0.parquet", **options: object
) -> Path:
    """Write rows as one Parquet file of a day's raw partition."""
    return write_table(folder, day, pa.Table.from_pylist(list(rows), schema=SCHEMA), name, **options)


def write_table(folder: Path, day: str, table: pa.Table, name: str = "part-0.parquet", **options) -> Path:
    """Write a table of any schema as one Parquet file of a day's raw partition."""
    path = _partition(folder, day) / name
    pq.write_table(table, path, **options)
    return path


def write_csv(folder: Path, day: str, rows: Sequence[dict], columns: Sequence[str] = COLUMNS) -> Path:
    """Write rows as CSV with a header."""
    path = _partition(folder, day) / "events.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_as_text(row) for row in rows)
    return path


def write_json(folder: Path, day: str, rows: Sequence[dict], zipped: bool = False) -> Path:
    """Write rows as JSON lines without their nulls."""
    lines = (json.dumps({k: v for k, v in _as_text(row).items() if v is not None}) for row in rows)
    path = _partition(folder, day) / ("events.jsonl.gz" if zipped else "events.jsonl")
    content = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def _as_text(row: dict) -> dict:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def _partition(folder: Path, day: str) -> Path:
    path = folder / f"event_date={day}"
    path.mkdir(parents=True, exist_ok=True)
    return path
