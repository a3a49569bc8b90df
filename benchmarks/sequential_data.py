"""What both sides of `benchmarks.sequential_training` share: the sequences, the sizes of the models, the measure.

Imports only what another side's environment has too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

DIM, LAYERS, HEADS, DROPOUT, LEARNING_RATE, BATCH = 64, 2, 2, 0.2, 1e-3, 256


def write_data(folder: Path, users: int, items: int) -> None:
    """Write the sequences of `benchmarks.core_training`, those of three items and more, with their item ids."""
    from benchmarks.core_training import sequences

    kept = [s for s in sequences(users, items, 12) if len(s) > 2]
    np.savez(folder / "data.npz", flat=np.concatenate(kept), lengths=[len(s) for s in kept], items=items)


def read_data(folder: Path) -> tuple[list[np.ndarray], np.ndarray, int]:
    """Return training sequences, the held-out item of each, and the number of items."""
    with np.load(folder / "data.npz") as stored:
        whole = np.split(stored["flat"], np.cumsum(stored["lengths"])[:-1])
        return [s[:-1] for s in whole], np.array([s[-1] for s in whole]), int(stored["items"])


def ndcg(scores: Callable[[list[np.ndarray]], np.ndarray], histories: list[np.ndarray], targets: np.ndarray) -> float:
    """Return the mean NDCG@10; `scores` gives float [n, items] of histories, -inf for items not in training."""
    gains = []
    for start in range(0, len(histories), 500):
        found, wanted = scores(histories[start : start + 500]), targets[start : start + 500]
        own = found[np.arange(len(wanted)), wanted]
        rank = np.where(np.isinf(own), np.inf, (found >= own[:, None]).sum(axis=1))
        gains.append(np.where(rank <= 10, 1 / np.log2(rank + 1), 0))
    return float(np.concatenate(gains).mean())
