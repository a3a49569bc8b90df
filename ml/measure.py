"""What a stage costs: wall-clock seconds and peak memory, Spark's JVM and Python workers included."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SAMPLE_SECONDS = 0.25


@dataclass
class Cost:
    """The cost of the block it was opened for.

    `peak_bytes` is the largest sum of resident memory of this process and everything it started, sampled four times a
    second: pages that processes share are counted for each, and a shorter peak can be missed.
    """

    seconds: float = 0.0
    peak_bytes: int = 0
    started: float = field(default_factory=time.perf_counter)

    def metadata(self) -> dict[str, float]:
        """Return the cost as asset metadata."""
        return {"seconds": round(self.seconds, 2), "peak_memory_mib": self.peak_mib}

    @property
    def peak_mib(self) -> int:
        """The peak in MiB."""
        return round(self.peak_bytes / 2**20)


@contextmanager
def timed() -> Iterator[Cost]:
    """Measure the block."""
    cost, ended = Cost(), threading.Event()
    sampler = threading.Thread(target=_sample, args=(cost, ended), name="memory-sampler", daemon=True)
    sampler.start()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - cost.started
        ended.set()
        sampler.join()


def _sample(cost: Cost, ended: threading.Event) -> None:
    while True:
        cost.peak_bytes = max(cost.peak_bytes, resident_bytes())
        if ended.wait(SAMPLE_SECONDS):
            return


def resident_bytes() -> int:
    """Return the resident memory of this process and its descendants."""
    import psutil

    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
