"""A range of days in one run, chunk by chunk: each chunk is published as it ends, and a killed run keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

import dagster as dg

from ml.finished_days import FinishedDays
from ml.warehouse import Publication, Warehouse

Inputs = Callable[[Sequence[str]], Mapping[str, str]]
"""Says what each of some days is made from."""


class DaysInChunks:
    """The days of a run that are still to be made, `size` at a time; a chunk that the caller has published is kept.

    `seconds_a_day` has what a day cost, by chunk. A day alone is always made.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, days: Sequence[str], size: int, finished: FinishedDays, inputs: Inputs
    ) -> None:
        self._context, self._days, self._size = context, list(days), size
        self._finished, self._inputs = finished, inputs
        self.seconds_a_day: list[float] = []

    def __iter__(self) -> Iterator[list[str]]:
        rest, asked = self._rest(), len(self._days)
        done = asked - len(rest)
        if done:
            self._context.log.info(f"{done} of {asked} days are there already, made by a run that was cut short")
        for start in range(0, len(rest), self._size):
            chunk, began = rest[start : start + self._size], perf_counter()
            made_from = self._inputs(chunk)  # before they are read: a file that changes meanwhile makes its day again
            yield chunk
            if asked > len(chunk):
                self._finished.add(made_from)
            done += len(chunk)
            self.seconds_a_day.append(round((perf_counter() - began) / len(chunk), 3))
            self._context.log.info(
                f"{chunk[0]} … {chunk[-1]} published: {done} of {asked} days, {self.seconds_a_day[-1]:.2f} s a day"
            )
        self._finished.forget(self._days)

    def _rest(self) -> list[str]:
        if len(self._days) == 1:
            return self._days
        made_from = self._inputs(self._days)
        return [day for day in self._days if not self._finished.holds(day, made_from[day])]


def all_publications(
    warehouse: Warehouse, table: str, days: Sequence[str], made: Sequence[Publication]
) -> list[Publication]:
    """Return what is published of each of `days`: `made` in this run, or there already."""
    by_day = {one.levels["date"]: one for one in made}
    return [by_day.get(day) or warehouse.publication(table, date=day) for day in days]


def tell_days(
    context: dg.AssetExecutionContext, table: str, published: Sequence[Publication], newest: dict[str, Any]
) -> None:
    """Give each day's materialization its own row count and size, and the newest day's `newest` too.

    Dagster repeats a run's metadata for each of its days: plots would be kept 730 times.
    """
    for one in published:
        own: dict[str, Any] = {
            "dagster/row_count": one.rows,
            "bytes": one.bytes,
            "path": dg.MetadataValue.path(one.location),
        }
        context.add_asset_metadata(
            own | (newest if one is published[-1] else {}), asset_key=table, partition_key=one.levels["date"]
        )
