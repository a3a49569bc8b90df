"""What lies in the raw log now, so cheaply that it can be asked every minute: no file is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml.log.files import list_files


@dataclass(frozen=True)
class RawState:
    """A raw partition's files at one moment.

    `fingerprint` changes when a file comes, goes, or is written again (name, size, time of modification). `arrived` is
    when the newest of them got here, in seconds since 1970: a copy that keeps its times has arrived late all the same.
    """

    fingerprint: str
    arrived: float


def raw_states(raw_log: Path, days: Sequence[str]) -> dict[str, RawState]:
    """Return the state of each of these raw partitions that has a data file; one stat a file.

    A file that vanishes while it is looked at leaves its partition out: it is being written.
    """
    states = {}
    for day in days:
        folder, digest, arrived = raw_log / f"event_date={day}", hashlib.sha256(), 0.0
        try:
            files = list_files(folder)
            for path in files:
                found = path.stat()
                digest.update(f"{path.relative_to(folder)}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
                arrived = max(arrived, found.st_ctime)
        except FileNotFoundError:
            continue
        if files:
            states[day] = RawState(digest.hexdigest()[:16], arrived)
    return states
