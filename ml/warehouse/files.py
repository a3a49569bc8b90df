"""Files and folders on disk: durable writes, names by content, and the atomic exchange of two folders."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ml.errors import HemlineError
from ml.files import fsync_path
from ml.warehouse.paths import describe

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2
_RENAMEAT2_NUMBER = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "ppc64le": 357, "s390x": 347}
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class PublishError(HemlineError):
    """A partition could not be published; what was published before stays. The message says what to do."""


@contextmanager
def clear_errors(table: str, levels: Mapping[str, str], root: Path) -> Iterator[None]:
    """Turn a failing disk (Python's, Arrow's or Spark's error) into a `PublishError` that names the partition."""
    try:
        yield
    except HemlineError:
        raise
    except Exception as error:
        advice = _advice(error, root)
        if advice is None:
            raise
        raise PublishError(f"{describe(table, levels)}: {advice} What was published before is unchanged.") from error


def _advice(error: Exception, root: Path) -> str | None:
    code = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if code in _FULL or "No space left on device" in text or "Disk quota exceeded" in text:
        return f"the disk is full. Free some space where {root} lies and run again."
    if code in _FORBIDDEN or ("Permission denied" in text and str(root) in text):
        return f"may not write below {root}. Give this user write permission there and run again."
    if isinstance(error, OSError):
        return f"writing below {root} failed ({error}). See that the disk is well and run again."
    return None


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def exchange(first: Path, second: Path) -> None:
    """Exchange two existing folders in one step: no moment has neither, and none has both.

    Linux: `renameat2` with `RENAME_EXCHANGE`; macOS: `renamex_np` with `RENAME_SWAP`. Raises `PublishError` where the
    system or the file system offers neither, any other failure as `OSError`.
    """
    a, b = os.fsencode(first), os.fsencode(second)
    libc = _libc()
    if sys.platform == "darwin":
        failed = libc.renamex_np(a, b, ctypes.c_uint(_RENAME_SWAP))
    elif hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, a, _AT_FDCWD, b, ctypes.c_uint(_RENAME_EXCHANGE))
    elif platform.machine() in _RENAMEAT2_NUMBER:  # a C library older than the call
        number = ctypes.c_long(_RENAMEAT2_NUMBER[platform.machine()])
        failed = libc.syscall(number, _AT_FDCWD, a, _AT_FDCWD, b, ctypes.c_uint(_RENAME_EXCHANGE))
    else:
        failed = -1
        ctypes.set_errno(errno.ENOSYS)
    if not failed:
        return
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        raise PublishError(
            f"the file system of {second} cannot exchange two folders atomically ({os.strerror(code)}), so readers "
            f"could see half a partition. Put the warehouse on a local file system that can (ext4, XFS, Btrfs, tmpfs, "
            f"APFS)."
        )
    raise OSError(code, os.strerror(code), str(second))


def put_in_place(new: Path, target: Path) -> bool:
    """Make folder `new` appear at `target`. Returns whether there was one, which now lies at `new`."""
    make_folders(target.parent)
    if target.exists():
        exchange(new, target)
        return True
    new.rename(target)
    return False


def make_folders(folder: Path) -> None:
    """Create `folder` and its missing parents, durably."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_path(folder.parent)


def content_hash(path: Path) -> str:
    """Hash of a file's bytes: 32 hexadecimal digits of BLAKE2b."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def name_by_content(folder: Path) -> None:
    """Rename the folder's files to `part-<hash>.parquet`.

    Files with the same bytes (only a table without a key can have them) are numbered, so that none is lost.
    """
    for path in sorted(folder.iterdir()):
        digest = content_hash(path)
        name, copies = f"part-{digest}.parquet", 0
        while (folder / name).exists():
            copies += 1
            name = f"part-{digest}-{copies}.parquet"
        path.rename(folder / name)


def fsync_folder(folder: Path) -> None:
    """Write a folder's files and its entries to the disk."""
    for path in folder.iterdir():
        fsync_path(path)
    fsync_path(folder)


def same_content(staged: Path, published: Path) -> bool:
    """Whether a published folder holds exactly the staged folder's files, whole: a damaged file is not the same."""
    if not published.is_dir():
        return False
    names = sorted(p.name for p in staged.iterdir())
    return names == sorted(p.name for p in published.iterdir()) and holds_its_content(published.iterdir())


def holds_its_content(files: Iterable[Path]) -> bool:
    """Whether each published file has the bytes that its name says."""
    return all(path.name.removeprefix("part-").startswith(content_hash(path)) for path in files)
