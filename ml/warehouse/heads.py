"""A partition's head: one small object that names its files and its writer, changed by conditional PUT alone.

Whoever writes a partition takes its lease in the head, and commits by a PUT on the condition that the head is still the
one the lease was taken in. So a writer whose lease was taken over, because it seemed dead, cannot commit.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace

from ml.errors import HemlineError
from ml.warehouse.bucket import Bucket, Listed, StoreError, pause

HEADS = "_heads"
_HEAD = "/head.json"
_ATTEMPTS = 4


@dataclass(frozen=True)
class StoredFile:
    """A published file: its name by content, the key it lies under (no two publications share one), its size."""

    name: str
    key: str
    bytes: int


@dataclass(frozen=True)
class Head:
    """What a partition is now. `files` is None before its first publication; `writer` names the lease's machine."""

    files: tuple[StoredFile, ...] | None = None
    writer: str | None = None
    stamp: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Differs in every state, so that no two have one ETag and a writer knows its own."""


@dataclass(frozen=True)
class Found:
    """A head as the store has it."""

    head: Head
    etag: str


class LeaseLostError(HemlineError):
    """Another writer took over, because this one had given no sign of life; nothing of this one is published."""


class Heads:
    """The heads of a bucket's partitions. `machine` names whose local locks exclude each other."""

    def __init__(self, bucket: Bucket, machine: str, lease_seconds: float) -> None:
        self.bucket = bucket
        self.machine = machine
        self.lease_seconds = lease_seconds
        self._known: dict[str, Found] = {}
        self._conditional = False

    def read(self, partition: str) -> Found | None:
        """Return a partition's head as it is now."""
        found = self.bucket.get(_key(partition))
        if found is None:
            self._known.pop(partition, None)
            return None
        body, etag = found
        self._known[partition] = Found(_load(body, self.bucket.url, partition), etag)
        return self._known[partition]

    def list(self, below: str) -> list[Listed]:
        """Return the listing of the heads below a path; `partition_of` says whose they are."""
        return [e for e in self.bucket.list(f"{HEADS}/{below}/") if e.key.endswith(_HEAD)]

    def listed(self, entry: Listed) -> Head | None:
        """Return a listed head; it is only read where it has changed since this process read it."""
        partition = partition_of(entry)
        known = self._known.get(partition)
        if known is None or known.etag != entry.etag:
            known = self.read(partition)
        return known.head if known else None

    def swap(self, partition: str, old: Found | None, new: Head) -> Found | None:
        """Put `new` where `old` is; None if another writer was first. Raises StoreError where the store stays away.

        A lost answer leaves the outcome unknown: the head is read, and tells by its stamp. The same PUT sent twice does
        no harm, for its condition holds once.
        """
        body = json.dumps(asdict(new)).encode()
        trouble: StoreError | None = None
        for attempt in range(_ATTEMPTS):
            try:
                etag = self.bucket.put_if(_key(partition), body, old.etag if old else None)
                if etag is not None:
                    return Found(new, etag)
                now = self.read(partition)
            except StoreError as error:
                trouble = error
            else:
                if now is not None and now.head.stamp == new.stamp:
                    return now
                if (now.etag if now else None) != (old.etag if old else None):
                    return None
            pause(attempt)
        raise trouble or StoreError(f"{self.bucket.url}: the head of {partition} cannot be written. Run again.")

    @contextmanager
    def lease(self, partition: str, wait_seconds: float) -> Iterator[Lease]:
        """Hold the partition's lease; it is given back at the end, or times out for others if this process dies.

        Raises HemlineError where another machine writes for longer than `wait_seconds`.
        """
        self._refuse_unconditional()
        lease = Lease(self, partition, self._acquire(partition, wait_seconds))
        try:
            yield lease
        finally:
            if lease.found.head.writer:
                with suppress(StoreError):  # it times out
                    self.swap(partition, lease.found, replace(lease.found.head, writer=None, stamp=uuid.uuid4().hex))

    def _acquire(self, partition: str, wait_seconds: float) -> Found:
        """Take the lease: at once where nobody has it or a dead process of this machine, else when it times out.

        A lease times out by this machine's clock, from when its head was first seen unchanged: no two clocks are
        compared.
        """
        started = since = time.monotonic()
        seen, attempt = "", 0
        while True:
            now = self.read(partition)
            if now is not None and now.etag != seen:
                seen, since, attempt = now.etag, time.monotonic(), 0
            free = now is None or now.head.writer in (None, self.machine)
            if free or time.monotonic() - since >= self.lease_seconds:
                held = self.swap(partition, now, Head(now.head.files if now else None, self.machine))
                if held is not None:
                    return held
            if time.monotonic() - started > wait_seconds:
                raise HemlineError(
                    f"{partition}: another machine has been publishing this partition for {wait_seconds:.0f} s. Wait "
                    f"for it or stop it, then run again."
                )
            pause(attempt)
            attempt += 1

    def _refuse_unconditional(self) -> None:
        """Refuse a store that takes any PUT whatever its condition: two writers would not exclude each other."""
        if self._conditional:
            return
        key = f"{HEADS}/probe"
        self.bucket.put_if(key, b"{}", None)  # now there is one
        if self.bucket.put_if(key, b"{}", None) or self.bucket.put_if(key, b"{}", f'"{"0" * 32}"'):
            raise HemlineError(
                f"{self.bucket.url}: this store ignores the conditions of a PUT (If-None-Match, If-Match), so two "
                f"writers could not exclude each other. Use one that has them, such as Amazon S3 or MinIO."
            )
        self._conditional = True


class Lease:
    """The right to change a partition, while `found` is its head."""

    def __init__(self, heads: Heads, partition: str, found: Found) -> None:
        self._heads, self._partition, self.found = heads, partition, found
        self._renewed = time.monotonic()

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The files that are published now."""
        return self.found.head.files or ()

    def renew(self) -> None:
        """Give a sign of life, where the last is a third of the lease ago; raises LeaseLostError."""
        if time.monotonic() - self._renewed >= self._heads.lease_seconds / 3:
            self._swap(replace(self.found.head, stamp=uuid.uuid4().hex))

    def commit(self, files: tuple[StoredFile, ...] | None) -> None:
        """Make `files` the partition (None: there is none), and give the lease back, in one step.

        Raises LeaseLostError, and StoreError where the store stays away: then it may have been done.
        """
        self._swap(Head(files))

    def _swap(self, new: Head) -> None:
        found = self._heads.swap(self._partition, self.found, new)
        if found is None:
            now = self._heads.read(self._partition)
            if now is None or new.writer or now.head.files != new.files:
                raise LeaseLostError(
                    f"{self._partition}: another machine took this partition over, because this one had been silent "
                    f"for {self._heads.lease_seconds:.0f} s. Run again."
                )
            found = Found(new, "")  # committed, though the answer got lost, and another writer has come since
        self.found, self._renewed = found, time.monotonic()


def partition_of(entry: Listed) -> str:
    """The partition whose head was listed."""
    return entry.key.removeprefix(f"{HEADS}/").removesuffix(_HEAD)


def _key(partition: str) -> str:
    return f"{HEADS}/{partition}{_HEAD}"


def _load(body: bytes, url: str, partition: str) -> Head:
    try:
        values = json.loads(body)
        files = values["files"]
        found = None if files is None else tuple(StoredFile(**file) for file in files)
        return Head(found, values["writer"], values["stamp"])
    except (ValueError, KeyError, TypeError) as error:
        raise HemlineError(
            f"{url}/{_key(partition)}: expected a head that Hemline wrote ({error}). Restore the object, or delete it "
            f"and publish the partition again."
        ) from error
