"""References that only count: popularity, first-order Markov and item-kNN. Items never seen in training score -inf."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from ml.errors import BadInputError
from ml.evaluation.metrics import ndcg_at_k
from ml.sequences import ItemSequences

MAX_VALIDATION = 500
"""Validation sequences looked at, evenly picked."""
Grid = Mapping[str, tuple[float, ...]]
"""The attributes that validation chooses, with their values."""
Sparse = Any
"""A scipy.sparse array; SciPy is only loaded where it is used."""


class _Counting(ABC):
    """What the counting systems share: the vocabulary, which items were seen, and popularity to fall back on."""

    name = ""
    grid: Grid = MappingProxyType({})

    def __init__(self, window_days: float = 7.0) -> None:
        """`window_days`: how far back from the newest training step popularity counts."""
        self.window_days = window_days
        self.items: list[str] = []

    def fit(self, data: ItemSequences, validation: ItemSequences | None = None) -> None:
        """Learn from the training sequences, and choose what `grid` leaves open by `validation` where it is given.

        Raises BadInputError where there are no training sequences.
        """
        if not data.sequences:
            raise BadInputError(f"{self.name}: expected at least one training sequence")
        self.items = list(data.items)
        steps, times = np.concatenate(data.sequences), np.concatenate(data.times)
        counts = np.bincount(steps, minlength=len(self.items)).astype(np.float64)
        recent = np.bincount(steps[times > times.max() - self.window_days], minlength=len(self.items))
        self.seen = counts > 0
        # Older counts only order items with equal recent ones.
        weight = recent + counts / (1 + counts.max())
        self.popularity = weight / weight.sum()
        self._learn(data)
        if validation is not None and self.grid:
            self._choose(validation)

    @abstractmethod
    def _learn(self, data: ItemSequences) -> None:
        """Learn what the system needs beside popularity."""

    @abstractmethod
    def scores(self, histories: Sequence[np.ndarray], ages: Sequence[np.ndarray]) -> np.ndarray:
        """Return float64 [n, items]; -inf for items never seen."""

    def _choose(self, validation: ItemSequences) -> None:
        """Set the attributes of `grid` to the combination with the highest NDCG@10 on `validation`, ties: the first."""
        pairs = _validation_pairs(validation, self.items, MAX_VALIDATION)
        if not pairs:
            return
        quality = []
        for values in product(*self.grid.values()):
            self._set(values)
            quality.append((self._validation_ndcg(pairs), values))
        self._set(max(quality, key=lambda pair: pair[0])[1])

    def _set(self, values: tuple[float, ...]) -> None:
        for name, value in zip(self.grid, values, strict=True):
            setattr(self, name, value)

    def _validation_ndcg(self, pairs: list[tuple[np.ndarray, np.ndarray, int]]) -> float:
        gains = []
        block = max(1, 8_000_000 // len(self.items))
        for first in range(0, len(pairs), block):
            histories, ages, targets = zip(*pairs[first : first + block], strict=True)
            scores = self.scores(histories, ages)
            own = scores[np.arange(len(targets)), np.array(targets)]
            gains.append(ndcg_at_k((scores >= own[:, None]).sum(axis=1), 10))
        return float(np.concatenate(gains).mean())

    def _known_only(self, scores: np.ndarray) -> np.ndarray:
        scores[:, ~self.seen] = -np.inf
        return scores


class Popularity(_Counting):
    """The same list for everybody: item steps (clicks and purchases) in the newest `window_days` of training.

    Counted up to the end of training, never later; steps before the window only break ties.
    """

    name = "popularity"

    def _learn(self, data: ItemSequences) -> None:
        """Popularity is all there is."""

    def scores(self, histories: Sequence[np.ndarray], ages: Sequence[np.ndarray]) -> np.ndarray:
        """Return float64 [n, items]: the share of recent steps, for every history alike."""
        return self._known_only(np.tile(self.popularity, (len(histories), 1)))


class Markov(_Counting):
    """First-order Markov chain: how often each item came right after the history's last one in training.

    Smoothed by popularity (Witten and Bell, 1991): with N transitions out of the last item to T different ones,
    score = (count + T · popularity) / (N + T). No history, or a last item without a successor: popularity.
    A click and then the purchase of the same item is a step from the item to itself; `self_weight` is what it counts,
    all or nothing, chosen on validation where it is given: click filters drop just these steps before a target.
    """

    name = "markov"
    grid: Grid = MappingProxyType({"self_weight": (0.0, 1.0)})

    def __init__(self, self_weight: float = 0.0, window_days: float = 7.0) -> None:
        super().__init__(window_days)
        self.self_weight = self_weight

    def _learn(self, data: ItemSequences) -> None:
        from scipy.sparse import coo_array

        pairs = [(s[:-1], s[1:]) for s in data.sequences if len(s) > 1]
        last = np.concatenate([p[0] for p in pairs]) if pairs else np.empty(0, dtype=np.int64)
        following = np.concatenate([p[1] for p in pairs]) if pairs else np.empty(0, dtype=np.int64)
        shape = (len(self.items), len(self.items))
        # Duplicate coordinates are summed: the counts. Steps from an item to itself are kept apart.
        same = last == following
        moves = (last[~same], following[~same])
        self.transitions: Sparse = coo_array((np.ones(len(moves[0])), moves), shape=shape).tocsr()
        self.repeats = np.bincount(last[same], minlength=len(self.items)).astype(np.float64)

    def scores(self, histories: Sequence[np.ndarray], ages: Sequence[np.ndarray]) -> np.ndarray:
        """Return float64 [n, items]: the smoothed probability of being next."""
        scores = np.tile(self.popularity, (len(histories), 1))
        rows = np.array([n for n, history in enumerate(histories) if len(history)], dtype=np.int64)
        if len(rows):
            last = np.array([histories[n][-1] for n in rows])
            following = self.transitions[last]
            repeats = self.self_weight * self.repeats[last]
            totals = np.asarray(following.sum(axis=1)).ravel() + repeats
            different = np.diff(following.indptr) + (repeats > 0)
            counts = following.toarray()
            counts[np.arange(len(rows)), last] += repeats
            moving = totals > 0
            smoothed = (counts + different[:, None] * self.popularity)[moving]
            scores[rows[moving]] = smoothed / (totals + different)[moving, None]
        return self._known_only(scores)


class ItemKNN(_Counting):
    """Item-based nearest neighbours: cosine of items' customers, summed over the history with time decay.

    score(i) = Σ over the history's items h of 0.5^(age / half-life) · rank_decay^(items after h) · cos(h, i), with
    the `neighbours` nearest items of h and ages counted from the history's newest item; plus a trace of popularity
    that only orders what has no neighbour there. `self_weight` stands for cos(h, h): 0 never recommends a known item
    for its own sake. Half-life, rank decay and self weight are chosen
    by NDCG@10 on `validation` where it is given, so that the reference is as good as it can be.
    """

    name = "item_knn"
    grid: Grid = MappingProxyType(
        {"half_life_days": (3.0, 30.0, 1000.0), "rank_decay": (0.5, 0.8, 1.0), "self_weight": (0.0, 0.5)}
    )

    def __init__(
        self,
        neighbours: int = 200,
        half_life_days: float = 30.0,
        rank_decay: float = 0.8,
        self_weight: float = 0.0,
        window_days: float = 7.0,
    ) -> None:
        """`half_life_days`, `rank_decay` and `self_weight` are used as they are where there is no validation."""
        super().__init__(window_days)
        self.neighbours = neighbours
        self.half_life_days, self.rank_decay, self.self_weight = half_life_days, rank_decay, self_weight

    def _learn(self, data: ItemSequences) -> None:
        self.similarity: Sparse = item_cosine(data, self.neighbours)

    def scores(self, histories: Sequence[np.ndarray], ages: Sequence[np.ndarray]) -> np.ndarray:
        """Return float64 [n, items]: the decayed sum of similarities."""
        from scipy.sparse import csr_array

        lengths = [len(history) for history in histories]
        weights = [
            0.5 ** ((age - age[-1:]) / self.half_life_days) * self.rank_decay ** np.arange(len(age))[::-1]
            for age in ages
        ]
        columns = np.concatenate([np.asarray(h, dtype=np.int64) for h in histories]) if sum(lengths) else np.empty(0)
        values = np.concatenate(weights) if sum(lengths) else np.empty(0)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        shape = (len(histories), len(self.items))
        history_matrix: Sparse = csr_array((values, columns.astype(np.int64), offsets), shape=shape)
        scores = (history_matrix @ self.similarity).toarray()
        if self.self_weight:
            scores += self.self_weight * history_matrix.toarray()
        return self._known_only(scores + 1e-9 * self.popularity)


def item_cosine(data: ItemSequences, neighbours: int) -> Sparse:
    """Return the cosine of items' sets of customers, without the diagonal, as a sparse [items, items].

    Each row keeps its `neighbours` highest values (ties: the lower item number). Rows are made a block at a time, so
    that memory grows with what is kept.
    """
    from scipy.sparse import csr_array, vstack

    n = len(data.items)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in data.sequences])])
    flat = np.concatenate(data.sequences).astype(np.int64)
    by_user: Sparse = csr_array((np.ones(len(flat)), flat, offsets), shape=(len(data.sequences), n))
    by_user.sum_duplicates()
    by_user.data[:] = 1.0
    norms = np.sqrt(np.maximum(np.asarray(by_user.sum(axis=0)).ravel(), 1.0))
    by_user.data = 1.0 / norms[by_user.indices]
    by_item: Sparse = by_user.T.tocsr()
    blocks: list[Sparse] = []
    for first in range(0, n, 2000):
        block = csr_array(by_item[first : first + 2000] @ by_user)
        blocks.append(_top_of_rows(block, first, neighbours))
    return csr_array(vstack(blocks)) if blocks else csr_array((0, 0))


def _top_of_rows(block: Sparse, first: int, neighbours: int) -> Sparse:
    """Return the block without its diagonal (row r is item first + r), only the highest values of each row."""
    from scipy.sparse import csr_array

    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    kept = block.indices != rows + first
    rows, columns, values = rows[kept], block.indices[kept], block.data[kept]
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    starts = np.searchsorted(rows, np.arange(block.shape[0]))
    top = np.arange(len(rows)) - starts[rows] < neighbours
    return csr_array((values[top], (rows[top], columns[top])), shape=block.shape)


def _validation_pairs(
    validation: ItemSequences, items: list[str], limit: int
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Return (history, ages, target) in the training vocabulary: a sequence's last item is its target."""
    index = {item: i for i, item in enumerate(items)}
    translate = np.array([index.get(item, -1) for item in validation.items], dtype=np.int64)
    pairs = []
    for sequence, times in zip(validation.sequences, validation.times, strict=True):
        places = translate[sequence]
        known = places[:-1] >= 0
        if known.any() and places[-1] >= 0:
            pairs.append((places[:-1][known], (times[-1] - times[:-1])[known], int(places[-1])))
    picked = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), limit)).astype(int)) if pairs else []
    return [pairs[i] for i in picked]
