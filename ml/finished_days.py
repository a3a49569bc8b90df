"""The days that an unfinished range has made: one that was killed goes on with the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ml.files import read_json, write_json
from ml.warehouse import Warehouse


class FinishedDays:
    """Days of `tables` that were published for a range which is not through, and what each was made from.

    They are kept in a file, by day, until the range is through. A day counts while it would be made from the same and
    its partitions are those that were published, whole: a rerun of a finished range makes every day again, and mends
    what was damaged meanwhile. The steps that use one file take turns (`assets.define`).
    """

    def __init__(self, file: Path, warehouse: Warehouse, tables: Sequence[str]) -> None:
        self._file, self._warehouse, self._tables = file, warehouse, list(tables)
        self._days: dict[str, dict[str, object]] = read_json(file) or {}

    def holds(self, day: str, made_from: str) -> bool:
        """Whether the day is published as it would be made now, from `made_from`."""
        kept = self._days.get(day)
        return (
            kept is not None
            and kept["made_from"] == made_from
            and kept["files"] == self._files(day)
            and all(self._warehouse.is_whole(table, date=day) for table in self._tables)
        )

    def add(self, made_from: Mapping[str, str]) -> None:
        """Keep days that are published now: day → what it was made from."""
        for day, source in made_from.items():
            self._days[day] = {"made_from": source, "files": self._files(day)}
        write_json(self._file, self._days)

    def forget(self, days: Iterable[str]) -> None:
        """Forget the days of a range that is through."""
        self._days = {day: kept for day, kept in self._days.items() if day not in set(days)}
        if self._days:
            write_json(self._file, self._days)
        else:
            self._file.unlink(missing_ok=True)

    def _files(self, day: str) -> dict[str, list[str]]:
        return {table: self._warehouse.content(table, date=day) for table in self._tables}
