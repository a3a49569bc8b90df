"""Buckets, warehouses and plain readers for the tests of the object store."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from s3_server import CREDENTIALS, S3Server

from ml.warehouse import Warehouse
from ml.warehouse.object_store import ObjectStore

BUCKET = "shop"
_RUNNING: list[S3Server] = []


def loopback_store(monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The test run's server, with credentials in the environment; no upload is left from another test."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    if not _RUNNING:
        server = S3Server()
        server.serve()
        server.client().create_bucket(Bucket=BUCKET)
        _RUNNING.append(server)
    server = _RUNNING[0]
    for upload in server.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
        server.client().abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    return server


def fresh_url() -> str:
    """A root that no other test uses."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}/w"


def object_store(server: S3Server, url: str, local: Path, **options: Any) -> ObjectStore:
    """The store at `url`, as the machine that owns `local` sees it."""
    settings = {name: options.pop(name) for name in ("lease_seconds",) if name in options}
    return ObjectStore(url, server.settings(**settings), local, **options)


def warehouse_at(
    server: S3Server, url: str, local: Path, on_point: Any = lambda point: None, **options: Any
) -> Warehouse:
    """The warehouse at `url`; another `local` is another machine."""
    return Warehouse(object_store(server, url, local, **options), on_point=on_point)


def plain_rows(server: S3Server, url: str) -> dict[str, int]:
    """Rows by version that a plain glob of `recommendations` sees."""
    import pyarrow.dataset as ds

    place = f"{url.removeprefix('s3://')}/recommendations"
    table = ds.dataset(place, filesystem=server.file_system(), partitioning="hive").to_table(["model_version"])
    return dict(Counter(table["model_version"].to_pylist()))


def copies_of(warehouse: Warehouse) -> list[Path]:
    """The copies that a machine keeps."""
    return sorted((warehouse.root / "_cache").rglob("*.parquet"))
