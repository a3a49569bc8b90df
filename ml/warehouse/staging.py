"""The warehouse's back room: work folders of running writers, old versions on their way out, and locks.

Everything here lies on this machine, outside every table's tree; on a local disk below the warehouse's own root, so on
its file system:
`_staging/<table>/<job>` is never visible to a reader, `_staging/_outgoing/…` was or is about to be, `_locks` holds the
lock files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ml.errors import HemlineError
from ml.warehouse.files import make_folders


@contextmanager
def partition_lock(root: Path, partition: Path, timeout: float) -> Iterator[None]:
    """Hold the partition's lock, which serialises its writers over threads and processes of one machine.

    Raises `HemlineError` when another writer holds it for longer than `timeout` seconds.
    """
    path = root / "_locks" / partition.with_name(partition.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=timeout):
            yield
    except Timeout as error:
        raise HemlineError(
            f"{partition}: another process has been publishing this partition for {timeout:.0f} s. Wait for it or "
            f"stop it, then run again."
        ) from error


@contextmanager
def step_lock(root: Path, name: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a step's name; `on_wait` is called once if another holds it, who is waited for however long.

    A process that dies lets go of it.
    """
    path = root / "_locks" / "_steps" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        with _among_steps(root, fcntl.LOCK_SH, on_wait):
            yield
    finally:
        lock.release()


@contextmanager
def no_steps(root: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold off every step: none is under way, and none begins; `on_wait` is called once where one has to be awaited."""
    with _among_steps(root, fcntl.LOCK_EX, on_wait):
        yield


@contextmanager
def _among_steps(root: Path, how: int, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock that steps share and `no_steps` has alone; the system takes it from a process that dies."""
    path = root / "_locks" / "_steps" / "all.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, how)
        yield


@contextmanager
def work_folder(root: Path, table: str, grace_seconds: float) -> Iterator[Path]:
    """A folder of one writer's own; removed at the end, or by the table's next writer if this one is killed."""
    purge(root, grace_seconds)
    staging, locks = root / "_staging" / table, root / "_locks" / "_staging" / table
    staging.mkdir(parents=True, exist_ok=True)
    locks.mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder, lock = staging / name, FileLock(locks / f"{name}.lock")
    # One at a time, so that nobody takes a writer that is just coming for one that is dead.
    with FileLock(locks.with_suffix(".lock")):
        _sweep(staging, locks)
        lock.acquire()
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
    purge(root, grace_seconds)


def _sweep(staging: Path, locks: Path) -> None:
    """Remove what killed writers of the table left: a work folder whose lock nobody holds."""
    for name in {p.name for p in staging.iterdir()} | {p.stem for p in locks.iterdir()}:
        lock = FileLock(locks / f"{name}.lock", timeout=0)
        try:
            with lock:
                shutil.rmtree(staging / name, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)
        except Timeout:
            continue  # its writer is at work


def clear(root: Path, grace_seconds: float) -> None:
    """Remove what went out, after its `grace_seconds`, and what killed writers left."""
    out = [int(path.name.split("-")[0]) for path in (root / "_staging" / "_outgoing").glob("*")]
    time.sleep(max(0.0, max(out, default=0) / 1e9 + grace_seconds - time.time()))
    purge(root, 0)
    for staging in (root / "_staging").glob("[!_]*"):
        locks = root / "_locks" / "_staging" / staging.name
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks.with_suffix(".lock")):
            _sweep(staging, locks)


def set_outgoing(root: Path, folder: Path) -> Path:
    """Move a staged folder to where it will be exchanged with the published one; returns its new path.

    After the exchange the old version lies there, stamped with the time, until `purge` removes it.
    """
    outgoing = root / "_staging" / "_outgoing"
    make_folders(outgoing)
    return folder.rename(outgoing / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}")


def purge(root: Path, grace_seconds: float) -> None:
    """Remove what went out at least `grace_seconds` ago.

    Not at once: a reader that opened the old folder just before the exchange and lists it just after would find it
    empty, and a glob over many partitions would lack this one's rows in silence. While the old folder is whole, such a
    reader gets its old file names, whose paths are gone: a loud error.
    """
    now = time.time_ns()
    for path in (root / "_staging" / "_outgoing").glob("*"):
        if now - int(path.name.split("-")[0]) >= grace_seconds * 1e9:
            _remove_whole(path)


def _remove_whole(path: Path) -> None:
    """Remove a folder under another name: a writer held up before its exchange finds it gone, not half of it."""
    with suppress(FileNotFoundError):  # another writer does it
        shutil.rmtree(path.rename(path.with_name(f"{path.name}-gone")), ignore_errors=True)
