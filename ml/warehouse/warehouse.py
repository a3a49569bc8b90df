"""The warehouse's front: publish a partition, read a table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tqdm import tqdm

from ml.errors import BadInputError
from ml.tables import Table
from ml.warehouse import paths, spark_io
from ml.warehouse.contents import check_files, write_rows
from ml.warehouse.files import clear_errors, holds_its_content, name_by_content
from ml.warehouse.local_store import LocalStore
from ml.warehouse.staging import clear, no_steps, partition_lock, purge, step_lock, work_folder
from ml.warehouse.store import Store

if TYPE_CHECKING:
    from pyarrow.compute import Expression
    from pyarrow.dataset import Dataset
    from pyspark.sql import DataFrame, SparkSession

    from ml.settings import Settings

Check = Callable[[Path], None]
"""Looks at a staged folder of Parquet files and raises a `HemlineError` if it must not be published."""

_READ_ATTEMPTS = 5


@dataclass(frozen=True)
class Publication:
    """What a call published, and where; `changed` is False where the partition already held exactly these bytes."""

    table: str
    levels: dict[str, str]
    rows: int
    bytes: int
    files: int
    changed: bool
    location: str


def open_warehouse(settings: Settings) -> Warehouse:
    """Return the warehouse of these settings: a folder, or an object store with its copies below `home`."""
    if isinstance(settings.warehouse, Path):
        return Warehouse(settings.warehouse)
    return Warehouse(_object_store(settings.warehouse, settings.home / "warehouse", *settings.object_store))


@cache
def _object_store(url: str, local: Path, *settings: tuple[str, Any]) -> Store:
    """One for a process: it remembers what it has read, and sensors ask every minute."""
    from ml.settings import ObjectStoreSettings
    from ml.warehouse.object_store import ObjectStore

    return ObjectStore(url, ObjectStoreSettings(**dict(settings)), local)


class Warehouse:
    """Tables in a store: a folder, given by its path, or what `open_warehouse` opens.

    A partition is staged on the local disk, checked, and then put in place whole (`ml.warehouse.store`). Writers of a
    partition wait for each other, at most `lock_seconds`. Partitions of up to `small_bytes` on disk are checked in
    memory and written as one file. On a disk, a replaced version is deleted by the first publication at least
    `grace_seconds` later. `on_point` is told of each step of a publication ("staged", "checked", then the store's), for
    tests that break it there.
    """

    def __init__(
        self,
        store: Path | str | Store,
        *,
        small_bytes: int = 64 * 2**20,
        lock_seconds: float = 3600,
        grace_seconds: float = 30,
        on_point: Callable[[str], None] = lambda point: None,
    ) -> None:
        if isinstance(store, str | Path):
            if "://" in str(store):
                raise BadInputError(
                    f"warehouse {str(store)!r}: expected a folder; `open_warehouse` opens object stores"
                )
            store = LocalStore(Path(store).expanduser().absolute())
        self.store = store
        self._small_bytes = small_bytes
        self._lock_seconds = lock_seconds
        self._grace_seconds = grace_seconds
        self._on_point = on_point

    @property
    def root(self) -> Path:
        """The folder of this machine where staging and locks lie; on a local disk the tables too."""
        return self.store.local

    def location(self, table: str, **levels: str) -> str:
        """Where a partition lies, or the outer levels given: a path or a URL; whether it exists or not."""
        return self.store.location(paths.partition_path(paths.table_named(table), levels))

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
        """Stage, check and put in place one partition below its lock."""
        partition = paths.partition_path(table, levels)
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
            size = sum(path.stat().st_size for path in files)
            changed = self.store.put(partition, staged, self._on_point)
            shutil.rmtree(staged, ignore_errors=True)
        location = self.store.location(partition)
        return Publication(table.name, dict(levels), rows, size, len(files), changed, location)

    def remove(self, table: str, **levels: str) -> None:
        """Take a partition, or all that lie below the outer levels given, out of the table.

        A reader sees each whole or not at all, or fails loudly; on a disk the files go as a replaced version's do.
        """
        spec = paths.table_named(table)
        path = paths.partition_path(spec, levels)
        with clear_errors(table, levels, self.root), ExitStack() as locks:
            for found, _ in self._partitions(table, levels):
                locks.enter_context(partition_lock(self.root, paths.partition_path(spec, found), self._lock_seconds))
            self.store.remove(path)
        purge(self.root, self._grace_seconds)

    def read(
        self, table: str, columns: list[str] | None = None, where: Expression | None = None, **levels: str
    ) -> pa.Table:
        """Read what is published, in partition and file order; no partition gives no rows.

        `where` leaves rows out before they are held. Levels that are not given follow as string columns. A partition
        that is exchanged meanwhile is read again. Raises `FileNotFoundError` if that goes on.
        """
        return self._again(lambda: self.dataset(table, **levels).to_table(columns=columns, filter=where))

    def head(self, table: str, rows: int, columns: list[str] | None = None, **levels: str) -> pa.Table:
        """Read the first rows of what is published, as `read` does."""
        return self._again(lambda: self.dataset(table, **levels).head(rows, columns=columns))

    @staticmethod
    def _again(read: Callable[[], pa.Table]) -> pa.Table:
        for _ in range(_READ_ATTEMPTS - 1):
            with suppress(FileNotFoundError):
                return read()
        return read()

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
        for values, parts in self._fetch(table, None, levels):
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
        return spark_io.read_frame(spark, spec, self.store.base(spec), list(self._fetch(table, days, levels)))

    def files(self, table: str, days: Sequence[str] | None = None, **levels: str) -> list[Path]:
        """Return the published files as paths of this machine, for other readers of Parquet; `days` as in `frame`."""
        return [path for _, files in self._fetch(table, days, levels) for path in files]

    def step(self, name: str, on_wait: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Hold the lock of a step that writes here, so that it runs once at a time over all processes of a machine."""
        return step_lock(self.root, name, on_wait)

    def no_steps(self, on_wait: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Wait for all steps that write here and keep others from beginning, over all processes of a machine."""
        return no_steps(self.root, on_wait)

    def clear(self) -> None:
        """Remove replaced versions and killed writers' leftovers, copies too; waits until no reader needs them."""
        clear(self.root, self._grace_seconds)
        self.store.clear(self._grace_seconds)

    def partitions(self, table: str) -> list[dict[str, str]]:
        """Return the level values of every published partition, in order."""
        return [values for values, _ in self._partitions(table, {})]

    def exists(self, table: str, **levels: str) -> bool:
        """Whether any partition with the given level values is published; an empty one counts."""
        return next(self._partitions(table, levels), None) is not None

    def content(self, table: str, **levels: str) -> list[str]:
        """Return the names of the published files: they are hashes of the bytes, so equal names are equal rows."""
        spec = paths.table_named(table)
        below = paths.partition_path(spec, levels)
        return sorted(
            str((paths.partition_path(spec, values) / name).relative_to(below))
            for values, names in self._partitions(table, levels)
            for name in names
        )

    def is_whole(self, table: str, **levels: str) -> bool:
        """Whether a partition is published and each of its files holds the bytes that its name says."""
        return bool(files := self.files(table, **levels)) and holds_its_content(files)

    def publication(self, table: str, **levels: str) -> Publication:
        """What is published of a partition, told by its files; raises BadInputError where there is none."""
        import pyarrow.parquet as pq

        files = self.files(table, **levels)
        if not files:
            raise BadInputError(f"{paths.describe(table, levels)}: not published")
        rows = sum(pq.read_metadata(path).num_rows for path in files)
        size = sum(path.stat().st_size for path in files)
        return Publication(table, dict(levels), rows, size, len(files), False, self.location(table, **levels))

    def days(self, table: str) -> list[str]:
        """The published days of a table, sorted."""
        return self.level_values(table, "date")

    def level_values(self, table: str, level: str, **outer: str) -> list[str]:
        """The published values of a level, sorted, below the given values of other levels."""
        spec = paths.table_named(table)
        if level not in spec.levels:
            raise BadInputError(f"table {table}: has levels {list(spec.levels)}, not {level!r}")
        return sorted({values[level] for values, _ in self._partitions(table, outer)})

    def _partitions(self, table: str, levels: Mapping[str, str]) -> Iterator[tuple[dict[str, str], list[str]]]:
        return self.store.partitions(paths.table_named(table), levels)

    def _fetch(
        self, table: str, days: Sequence[str] | None, levels: Mapping[str, str]
    ) -> Iterator[tuple[dict[str, str], list[Path]]]:
        """The partitions with their files as paths of this machine."""

        def wanted(values: Mapping[str, str]) -> bool:
            if isinstance(days, tuple):
                return days[0] <= values["date"] <= days[1]
            return days is None or values["date"] in days

        return self.store.fetch(paths.table_named(table), levels, wanted)
