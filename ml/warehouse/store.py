"""Where published partitions lie: what the warehouse asks of a local disk and of an object store alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from ml.tables import Table

Point = Callable[[str], None]
"""Told of each step of a publication, for tests that break it there."""
Levels = Mapping[str, str]


class Store(Protocol):
    """Published partitions, each replaced whole. `local` is a folder of this machine for staging and locks."""

    local: Path

    def location(self, path: Path) -> str:
        """Return where a partition's path lies, as readers write it: a path of this machine or a URL."""
        ...

    def partitions(self, table: Table, levels: Levels) -> Iterator[tuple[dict[str, str], list[str]]]:
        """Yield every published partition with the given level values, in order: all its values, its files' names."""
        ...

    def fetch(
        self, table: Table, levels: Levels, keep: Callable[[Levels], bool]
    ) -> Iterator[tuple[dict[str, str], list[Path]]]:
        """Yield what `partitions` does where `keep` says so, with its files as paths of this machine."""
        ...

    def base(self, table: Table) -> Path:
        """Return the folder of this machine that the levels' folders of `fetch`'s paths lie in."""
        ...

    def put(self, partition: Path, staged: Path, at: Point) -> bool:
        """Make a staged folder of files named by content the partition; False where it is that already.

        The caller excludes other writers of this machine, and removes what is left of `staged`. When it fails or is
        killed, the partition is as it was or as it was to be.
        """
        ...

    def remove(self, path: Path) -> None:
        """Take a partition, or all below a path of outer levels, out of the table. The caller excludes as in `put`."""
        ...

    def clear(self, grace_seconds: float) -> None:
        """Remove what no partition names and what is beyond `local`'s staging; readers get `grace_seconds` to let go.

        For a caller that keeps this machine's writers away.
        """
        ...
