"""The warehouse on a local disk: a partition is a folder, replaced by exchanging two folders in one step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ml.tables import Table
from ml.warehouse import paths
from ml.warehouse.files import fsync_folder, fsync_path, put_in_place, same_content
from ml.warehouse.staging import set_outgoing
from ml.warehouse.store import Levels, Point


class LocalStore:
    """Partitions below a folder of a local file system (`ml.warehouse.store.Store`)."""

    def __init__(self, root: Path) -> None:
        self.local = root

    def location(self, path: Path) -> str:
        """Return a path."""
        return str(self.local / path)

    def partitions(self, table: Table, levels: Levels) -> Iterator[tuple[dict[str, str], list[str]]]:
        """Yield what the folders hold now."""
        for values, files in paths.partitions(self.local, table, levels):
            yield values, [file.name for file in files]

    def fetch(
        self, table: Table, levels: Levels, keep: Callable[[Levels], bool]
    ) -> Iterator[tuple[dict[str, str], list[Path]]]:
        """Yield the files where they are; an exchange after that leaves paths that are gone."""
        for values, files in paths.partitions(self.local, table, levels):
            if keep(values):
                yield values, files

    def base(self, table: Table) -> Path:
        """Return the table's folder."""
        return self.local / table.name

    def put(self, partition: Path, staged: Path, at: Point) -> bool:
        """Exchange the folders; points "before exchange" and "after exchange"."""
        target = self.local / partition
        if same_content(staged, target):
            return False
        fsync_folder(staged)  # the bytes are on the disk before any name points to them
        outgoing = set_outgoing(self.local, staged)
        at("before exchange")
        try:
            put_in_place(outgoing, target)
        except Exception:
            shutil.rmtree(outgoing, ignore_errors=True)  # never became visible
            raise
        at("after exchange")
        fsync_path(target.parent)
        fsync_path(outgoing.parent)
        return True

    def remove(self, path: Path) -> None:
        """Move the folder away in one step; its files go as a replaced version's do."""
        folder = self.local / path
        if folder.is_dir():
            set_outgoing(self.local, folder)
            fsync_path(folder.parent)

    def clear(self, grace_seconds: float) -> None:
        """Do nothing: what was replaced or removed lies in staging."""
