"""The warehouse's front: publish a partition, read a table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from tqdm import tqdm

from ml.errors import BadInputError
from ml.tables import Table
from ml.warehouse import paths, spark_io
from ml.warehouse.contents import check_files, write_rows
from ml.warehouse.files import (
    clear_errors,
    fsync_folder,
    fsync_path,
    holds_its_content,
    name_by_content,
    put_in_place,
    same_content,
)
from ml.warehouse.staging import partition_lock, purge, set_outgoing, step_lock, work_folder

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset
    from pyspark.sql import DataFrame, SparkSession

Check = Callable[[Path], None]
"""Looks at a staged folder of Parquet files and raises a `HemlineError` if it must not be published."""

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")
_READ_ATTEMPTS = 5


@dataclass(frozen=True)
class Publication:
    """What a call published: `changed` is False where the partition already held exactly these bytes."""

    table: str
    levels: dict[str, str]
    rows: int
    bytes: int
    files: int
    changed: bool
    folder: Path


class Warehouse:
    """Tables under one local root; see the design's section on publishing.

    A partition is staged, checked and then put in place by exchanging its folder atomically: a reader with a plain glob
    sees it whole, old or new, or fails loudly. Writers of a partition wait for each other, at most `lock_seconds`.
    Partitions of up to `small_bytes` on disk are checked in memory and written as one file. A replaced version is
    deleted by the first publication at least `grace_seconds` later. `on_point` is told of each step of a publication
    ("staged", "checked", "before exchange", "after exchange"), for tests that break it there.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        small_bytes: int = 64 * 2**20,
        lock_seconds: float = 3600,
        grace_seconds: float = 30,
        on_point: Callable[[str], None] = lambda point: None,
    ) -> None:
        if _SCHEME.match(str(root)):
            raise BadInputError(
                f"warehouse {str(root)!r}: object stores are not supported, expected a folder of a local file system"
            )
        self.root = Path(root).expanduser().absolute()
        self._small_bytes = small_bytes
        self._lock_seconds = lock_seconds
        self._grace_seconds = grace_seconds
        self._on_point = on_point

    def folder(self, table: str, **levels: str) -> Path:
        """The folder of a partition, or of the outer levels given; whether it exists or not."""
        return self.root / paths.partition_path(paths.table_named(table), levels)

    def publish(
        self, table: str, data: pa.Table | Iterable[pa.RecordBatch], *, checks: Sequence[Check] = (), **levels: str
    ) -> Publication:
        """Publish one partition: a table (sorted by key here) or batches (streamed in their own order).

        Raises `TableCheckError` when the rows break the table's contract, what `checks` raise, and `PublishError` when
        the disk fails. In every case, and when killed, the partition is as it was or as it was to be.
        """
        spec = self._leaf(table, levels)
        with clear_errors(table, levels, self.root), work_folder(self.root, table, self._grace_seconds) as work:
            return self._publish(spec, levels, work, checks, lambda to: write_rows(spec, levels, data, to / "rows"))

    def publish_frame(
        self, table: str, frame: DataFrame, *, checks: Sequence[Check] = (), **levels: str
    ) -> Publication:
        """Publish one partition from a Spark frame; level columns in it are ignored. Raises as `publish` does."""
        spec = self._leaf(table, levels)
        with clear_errors(table, levels, self.root), work_folder(self.root, table, self._grace_seconds) as work:

            def write(to: Path) -> None:
                files = spark_io.write_frame(spec, levels, frame, work / "spark")
                spark_io.adopt_files(spec, levels, files, to, self._small_bytes)

            return self._publish(spec, levels, work, checks, write)

    def publish_days(
        self, table: str, frame: DataFrame, days: Sequence[str], *, checks: Sequence[Check] = ()
    ) -> list[Publication]:
        """Publish many days from one Spark write, by the frame's `date` column; a day without rows is one empty file.

        Each day is checked and put in place on its own, in the order given: after a failure or a kill the days before
        are published, and a rerun finds them unchanged. Raises as `publish` does, and `TableCheckError` for rows of
        other days.
        """
        spec = paths.table_named(table)
        if spec.levels != ("date",):
            raise BadInputError(f"table {table}: expected one whose only level is date, has {list(spec.levels)}")
        days = list(dict.fromkeys(days))
        for day in days:
            paths.level_folder("date", day)
        if not days:
            return []
        done = []
        with clear_errors(table, {}, self.root), work_folder(self.root, table, self._grace_seconds) as work:
            by_day = spark_io.write_days(spec, frame, days, work / "spark")
            for day in tqdm(days, desc=f"publish {table}", unit="day", disable=None):
                files, levels = by_day.get(day, []), {"date": day}

                def write(to: Path, files: Sequence[Path] = files, levels: Mapping[str, str] = levels) -> None:
                    spark_io.adopt_files(spec, levels, files, to, self._small_bytes)

                with clear_errors(table, levels, self.root):
                    done.append(self._publish(spec, levels, work, checks, write))
        return done

    def _leaf(self, table: str, levels: Mapping[str, str]) -> Table:
        spec = paths.table_named(table)
        if set(levels) != set(spec.levels):
            raise BadInputError(
                f"table {table}: expected a value for each of {list(spec.levels)}, got {sorted(levels)}"
            )
        paths.partition_path(spec, levels)
        return spec

    def _publish(
        self,
        table: Table,
        levels: Mapping[str, str],
        work: Path,
        checks: Sequence[Check],
        write: Callable[[Path], None],
    ) -> Publication:
        """Stage, check and exchange one partition below its lock."""
        partition = paths.partition_path(table, levels)
        target = self.root / partition
        with partition_lock(self.root, partition, self._lock_seconds):
            staged = work / "partition"
            staged.mkdir()
            write(staged)
            name_by_content(staged)
            self._on_point("staged")
            files = sorted(staged.iterdir())
            rows = check_files(table, levels, files, self._small_bytes, work / "spill")
            for check in checks:
                check(staged)
            self._on_point("checked")
            size, changed = sum(path.stat().st_size for path in files), not same_content(staged, target)
            if changed:
                self._exchange(staged, target)
            else:
                shutil.rmtree(staged)
        return Publication(table.name, dict(levels), rows, size, len(files), changed, target)

    def _exchange(self, staged: Path, target: Path) -> None:
        fsync_folder(staged)  # the bytes are on the disk before any name points to them
        outgoing = set_outgoing(self.root, staged)
        self._on_point("before exchange")
        try:
            put_in_place(outgoing, target)
        except Exception:
            shutil.rmtree(outgoing, ignore_errors=True)  # never became visible
            raise
        self._on_point("after exchange")
        fsync_path(target.parent)
        fsync_path(outgoing.parent)

    def remove(self, table: str, **levels: str) -> None:
        """Take a partition, or all that lie below the outer levels given, out of the table in one step.

        A reader sees it whole or not at all, or fails loudly, as with a replaced version; the files go as those do.
        """
        spec, folder = paths.table_named(table), self.folder(table, **levels)
        with clear_errors(table, levels, self.root), ExitStack() as locks:
            for found, _ in paths.partitions(self.root, spec, levels):
                locks.enter_context(partition_lock(self.root, paths.partition_path(spec, found), self._lock_seconds))
            set_outgoing(self.root, folder)
            fsync_path(folder.parent)
        purge(self.root, self._grace_seconds)

    def read(self, table: str, columns: list[str] | None = None, **levels: str) -> pa.Table:
        """Read what is published, in partition and file order; no partition gives no rows.

        Levels that are not given follow as string columns. A partition that is exchanged meanwhile is read again.
        Raises `FileNotFoundError` if that goes on.
        """
        for _ in range(_READ_ATTEMPTS - 1):
            with suppress(FileNotFoundError):
                return self.dataset(table, **levels).to_table(columns=columns)
        return self.dataset(table, **levels).to_table(columns=columns)

    def dataset(self, table: str, **levels: str) -> Dataset:
        """A dataset over the files now published, with the schema that `read` has."""
        import pyarrow.dataset as ds
        from pyarrow.fs import LocalFileSystem

        spec = paths.table_named(table)
        free = [level for level in spec.levels if level not in levels and level not in spec.names]
        schema = spec.schema
        for level in free:
            schema = schema.append(pa.field(level, pa.string(), nullable=False))
        files, partitions = [], []
        for values, parts in paths.partitions(self.root, spec, levels):
            where = ds.scalar(True)
            for level in free:
                where = where & (ds.field(level) == values[level])
            files += [str(part) for part in parts]
            partitions += [where] * len(parts)
        return ds.FileSystemDataset.from_paths(
            files, schema=schema, format=ds.ParquetFileFormat(), filesystem=LocalFileSystem(), partitions=partitions
        )

    def frame(self, spark: SparkSession, table: str, days: Sequence[str] | None = None, **levels: str) -> DataFrame:
        """Read what is published as a Spark frame, levels as string columns (those given too).

        `days` restricts the date level: a tuple is the first and the last day of a range, a list names days. Days that
        are not published are left out.
        """
        spec = paths.table_named(table)
        found = list(paths.partitions(self.root, spec, levels))
        if isinstance(days, tuple):
            first, last = days
            found = [(values, files) for values, files in found if first <= values["date"] <= last]
        elif days is not None:
            found = [(values, files) for values, files in found if values["date"] in set(days)]
        return spark_io.read_frame(spark, spec, self.root, found)

    def step(self, name: str, on_wait: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Hold the lock of a step that writes here, so that it runs once at a time over all processes of a machine."""
        return step_lock(self.root, name, on_wait)

    def exists(self, table: str, **levels: str) -> bool:
        """Whether any partition with the given level values is published; an empty one counts."""
        return next(paths.partitions(self.root, paths.table_named(table), levels), None) is not None

    def content(self, table: str, **levels: str) -> list[str]:
        """Return the names of the published files: they are hashes of the bytes, so equal names are equal rows."""
        folder = self.folder(table, **levels)
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))

    def is_whole(self, table: str, **levels: str) -> bool:
        """Whether a partition is published and each of its files holds the bytes that its name says."""
        folder = self.folder(table, **levels)
        return folder.is_dir() and holds_its_content(folder)

    def publication(self, table: str, **levels: str) -> Publication:
        """What is published of a partition, told by its files; raises BadInputError where there is none."""
        import pyarrow.parquet as pq

        folder = self.folder(table, **levels)
        files = sorted(folder.glob("*.parquet"))
        if not files:
            raise BadInputError(f"{paths.describe(table, levels)}: not published")
        rows = sum(pq.read_metadata(path).num_rows for path in files)
        size = sum(path.stat().st_size for path in files)
        return Publication(table, dict(levels), rows, size, len(files), False, folder)

    def days(self, table: str) -> list[str]:
        """The published days of a table, sorted."""
        return self.level_values(table, "date")

    def level_values(self, table: str, level: str, **outer: str) -> list[str]:
        """The published values of a level, sorted, below the given values of other levels."""
        spec = paths.table_named(table)
        if level not in spec.levels:
            raise BadInputError(f"table {table}: has levels {list(spec.levels)}, not {level!r}")
        return sorted({values[level] for values, _ in paths.partitions(self.root, spec, outer)})
