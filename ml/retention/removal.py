"""One thing that may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Removal:
    """What may go, why, and how many bytes it has (None where a server holds them); `remove` does it."""

    kind: str
    what: str
    why: str
    bytes: int | None
    remove: Callable[[], None] = field(repr=False, compare=False)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
