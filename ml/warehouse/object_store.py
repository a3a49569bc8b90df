"""The warehouse on an object store: files under keys of their own, and a head that says which of them are published.

A publication takes the partition's lease (`ml.warehouse.heads`), uploads its files in parts that nobody sees, completes
them, commits by the head, and deletes the files it replaced. Hemline reads by the head and so sees one version, old or
new. A plain glob sees both versions from the first completion to the last deletion.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ml.files import write_file
from ml.tables import TABLES, Table
from ml.warehouse import paths
from ml.warehouse.bucket import Bucket, StoreError, Upload
from ml.warehouse.cache import Cache
from ml.warehouse.heads import Heads, Lease, LeaseLostError, StoredFile, partition_of
from ml.warehouse.store import Levels, Point

if TYPE_CHECKING:
    from ml.settings import ObjectStoreSettings

_THREADS = 16
_READ_ATTEMPTS = 5


class ObjectStore:
    """Partitions below `s3://bucket/prefix` (`ml.warehouse.store.Store`), with copies below `local`.

    A writer waits for another machine's at most `wait_seconds`. A copy of what is no longer published goes when it was
    last asked for `keep_seconds` ago.
    """

    def __init__(
        self,
        url: str,
        settings: ObjectStoreSettings,
        local: Path,
        *,
        wait_seconds: float = 3600,
        keep_seconds: float = 3600,
    ) -> None:
        self.local = local
        self._bucket = Bucket(url, settings)
        self._settings = settings
        self._wait_seconds = wait_seconds
        self._cache = Cache(local / "_cache", self._bucket, keep_seconds)
        self._opened: Heads | None = None

    @property
    def _heads(self) -> Heads:
        """Made when first used: a warehouse that only stands in settings leaves nothing on the disk."""
        if self._opened is None:
            self._opened = Heads(self._bucket, _machine(self.local), self._settings.lease_seconds)
        return self._opened

    def location(self, path: Path) -> str:
        """Return a URL."""
        return f"{self._bucket.url}/{path.as_posix()}"

    def base(self, table: Table) -> Path:
        """Return the folder of the table's copies."""
        return self._cache.root / table.name

    def partitions(self, table: Table, levels: Levels) -> Iterator[tuple[dict[str, str], list[str]]]:
        """Yield what the heads name now."""
        for values, _, files in self._published(table, levels, lambda values: True):
            yield values, [file.name for file in files]

    def fetch(
        self, table: Table, levels: Levels, keep: Callable[[Levels], bool]
    ) -> Iterator[tuple[dict[str, str], list[Path]]]:
        """Yield copies of the files, downloaded if need be; of each partition those of one version."""
        found = self._published(table, levels, keep)
        with ThreadPoolExecutor(_THREADS) as pool:
            copies = pool.map(lambda entry: self._copies(entry[1], entry[2]), found)
            for (values, _, _), files in zip(found, copies, strict=True):
                if files is not None:
                    yield values, files

    def _published(
        self, table: Table, levels: Levels, keep: Callable[[Levels], bool]
    ) -> list[tuple[dict[str, str], Path, tuple[StoredFile, ...]]]:
        """Return the published partitions: level values, path, files."""
        below = paths.partition_path(table, paths.outermost(table, levels))
        listed = []
        for entry in self._heads.list(below.as_posix()):
            path = Path(partition_of(entry))
            values = paths.values_of(table, path)
            if all(values[level] == value for level, value in levels.items()) and keep(values):
                listed.append((values, path, entry))
        listed.sort(key=lambda one: one[1].parts)
        with ThreadPoolExecutor(_THREADS) as pool:
            heads = list(pool.map(lambda one: self._heads.listed(one[2]), listed))
        return [
            (values, path, head.files)
            for (values, path, _), head in zip(listed, heads, strict=True)
            if head is not None and head.files is not None
        ]

    def _copies(self, partition: Path, files: tuple[StoredFile, ...]) -> list[Path] | None:
        """Return the copies of a partition's files; where it is replaced meanwhile, those of the newer version."""
        for _ in range(_READ_ATTEMPTS):
            with suppress(FileNotFoundError):
                copies = [self._cache.file(partition, file) for file in files]
                self._cache.forget(partition, {file.name for file in files})
                return sorted(copies)
            found = self._heads.read(partition.as_posix())
            if found is None or found.head.files is None:
                return None
            files = found.head.files
        lost = ", ".join(file.key for file in files)
        raise FileNotFoundError(f"{self._bucket.url}: {partition} names {lost}, which cannot be read")

    def put(self, partition: Path, staged: Path, at: Point) -> bool:
        """Upload, complete, commit, delete what was replaced.

        Points: "uploaded", "visible" (the window of plain globs is open), "committed" and "deleted" (it is closed).
        """
        with self._heads.lease(partition.as_posix(), self._wait_seconds) as lease:
            published = self._sweep(partition, lease.files)
            if lease.found.head.files is not None and published and _names(staged) == _names_of(lease.files):
                return False
            replaced = lease.files
            self._commit(partition, staged, lease, at)
        for file in replaced:
            self._bucket.delete(file.key)
        at("deleted")
        self._cache.adopt(partition, staged)
        self._cache.forget(partition, _names_of(lease.files))
        return True

    def remove(self, path: Path) -> None:
        """Commit, partition by partition, that there is none, and delete the files."""
        for entry in self._heads.list(path.as_posix()):
            partition = partition_of(entry)
            with self._heads.lease(partition, self._wait_seconds) as lease:
                self._sweep(Path(partition), lease.files)
                removed = lease.files
                lease.commit(None)
            for file in removed:
                self._bucket.delete(file.key)
            self._cache.forget(Path(partition), ())

    def clear(self, grace_seconds: float) -> None:
        """Remove files that no head names, uploads that nobody completed, and copies of what is not published.

        A publication removes what dead writers left of its own partition; this, what they left of any.
        """
        copies: set[Path] = set()
        for table in TABLES.values():
            published = self._published(table, {}, lambda values: True)
            copies |= {self._cache.root / path / file.name for _, path, files in published for file in files}
            for partition in self._littered(table, {file.key for _, _, files in published for file in files}):
                # Below the lease: another machine's writer, whose files are not named yet, is waited for.
                with self._heads.lease(partition.as_posix(), self._wait_seconds) as lease:
                    self._sweep(partition, lease.files)
        self._cache.clear(copies, grace_seconds)

    def _littered(self, table: Table, named: Collection[str]) -> list[Path]:
        """Return the partitions in whose folders lie files beside those `named`, or uploads."""
        below = f"{table.name}/"
        keys = {entry.key for entry in self._bucket.list(below)} - set(named)
        keys |= {upload.key for upload in self._bucket.uploads(below)}
        folders = {Path(key).parent for key in keys}
        return sorted(folder for folder in folders if len(folder.parts) == 1 + len(table.levels))

    def _sweep(self, partition: Path, files: tuple[StoredFile, ...]) -> bool:
        """Remove what dead writers left of the partition; return whether its own files are all there, in their size."""
        named = {file.key: file.bytes for file in files}
        below = f"{partition.as_posix()}/"
        there = {}
        for entry in self._bucket.list(below):
            if entry.key in named:
                there[entry.key] = entry.bytes
            elif "/" not in entry.key.removeprefix(below):
                self._bucket.delete(entry.key)
        for upload in self._bucket.uploads(below):
            self._bucket.abort(upload)
        return there == named

    def _commit(self, partition: Path, staged: Path, lease: Lease, at: Point) -> None:
        uploads: list[Upload] = []
        files = []
        publication = uuid.uuid4().hex[:12]
        try:
            for path in sorted(staged.iterdir()):
                key = (PurePosixPath(partition) / f"{path.stem}-{publication}{path.suffix}").as_posix()
                uploads.append(self._bucket.upload(path, key, lease.renew))
                files.append(StoredFile(path.name, key, path.stat().st_size))
            at("uploaded")
            lease.renew()
            for upload in uploads:
                self._bucket.complete(upload)
            at("visible")
        except Exception:
            self._undo(uploads)
            raise
        try:
            lease.commit(tuple(files))
        except LeaseLostError:
            self._undo(uploads)
            raise
        # After a StoreError it may have been done, so the files stay: if it was not, the next writer removes them.
        at("committed")

    def _undo(self, uploads: list[Upload]) -> None:
        """Remove this writer's files, which no head names; what the store does not take now is left to the next."""
        for upload in uploads:
            self._bucket.abort(upload)
            with suppress(StoreError):
                self._bucket.delete(upload.key)


def _machine(local: Path) -> str:
    """The name of this machine's folder, made once: its processes exclude each other by local locks."""
    path = local / "_machine"
    if not path.exists():
        write_file(path, lambda p: p.write_text(uuid.uuid4().hex))
    return path.read_text()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _names_of(files: tuple[StoredFile, ...]) -> set[str]:
    return {file.name for file in files}
