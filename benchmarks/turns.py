"""Several ways to do the same, timed in turns: other work slows all of them alike, so trust the ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Took(Generic[Result]):
    """The median seconds of one way's rounds, by the clock and by the processor (every thread), and its last result."""

    wall: float
    cpu: float
    result: Result


def in_turns(ways: Mapping[str, Callable[[], Result]], rounds: int, untimed: int = 0) -> dict[str, Took[Result]]:
    """Run every way `untimed` and then `rounds` times, in turns; return what each took, by name in the given order."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    results: dict[str, Result] = {}
    for number in range(untimed + rounds):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = way()
            if number >= untimed:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in seconds.items()
    }
    return {name: Took(wall, cpu, results[name]) for name, (wall, cpu) in medians.items()}
