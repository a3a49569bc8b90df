"""Copies of an object store's files on this machine: each is downloaded once, whole, and checked against its name."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ml.errors import HemlineError
from ml.files import fsync_path
from ml.warehouse.bucket import Bucket
from ml.warehouse.files import content_hash
from ml.warehouse.heads import StoredFile


class Cache:
    """Files by partition and name below `root`.

    What a partition no longer names goes when it was last asked for `keep_seconds` ago; all else stays, so the disk
    must hold the newest version of every partition that this machine reads.
    """

    def __init__(self, root: Path, bucket: Bucket, keep_seconds: float) -> None:
        self.root = root
        self._bucket = bucket
        self._keep_seconds = keep_seconds

    def file(self, partition: Path, stored: StoredFile) -> Path:
        """Return the copy of a file, downloaded if need be. Raises FileNotFoundError where the store has it no more."""
        path = self.root / partition / stored.name
        try:
            if path.stat().st_size == stored.bytes:
                os.utime(path)
                return path
        except FileNotFoundError:
            pass
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as temporary:
            with temporary.open("wb") as file:
                self._bucket.download(stored.key, file)
            if not stored.name.removeprefix("part-").startswith(content_hash(temporary)):
                raise HemlineError(
                    f"{self._bucket.url}/{stored.key}: its bytes are not those that were published. Delete the object "
                    f"and publish the partition again."
                )
            _put(temporary, path)
        return path

    def adopt(self, partition: Path, staged: Path) -> None:
        """Take over the files that this machine has just published."""
        (self.root / partition).mkdir(parents=True, exist_ok=True)
        for path in staged.iterdir():
            _put(path, self.root / partition / path.name)

    def forget(self, partition: Path, named: Collection[str]) -> None:
        """Remove the partition's copies that it does not name and that nobody has asked for lately."""
        with suppress(FileNotFoundError):
            for path in (self.root / partition).iterdir():
                if path.name not in named and path.is_file() and self._is_old(path):
                    path.unlink(missing_ok=True)

    def clear(self, named: Collection[Path], grace_seconds: float) -> None:
        """Remove all that is not `named`, once nobody has asked for it for `grace_seconds`.

        Copies of partitions that were removed go, which nobody asks for again, and what killed readers had begun.
        """
        for path in [path for path in self.root.rglob("*") if path.is_file() and path not in named]:
            with suppress(FileNotFoundError):
                time.sleep(min(grace_seconds, max(0.0, path.stat().st_mtime + grace_seconds - time.time())))
                path.unlink()

    def _is_old(self, path: Path) -> bool:
        with suppress(FileNotFoundError):
            return time.time() - path.stat().st_mtime >= self._keep_seconds
        return False


class _beside:
    """A temporary file's path beside `path`, removed at the end if it is still there."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)


def _put(path: Path, target: Path) -> None:
    fsync_path(path)
    path.replace(target)
