"""What is known about every item that may be recommended, and how each source scores all of them for a customer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from ml.ranking.asked import Asked

if TYPE_CHECKING:
    from ml.evaluation import System
    from ml.evaluation.references import ItemKNN, Markov
    from ml.fits.fitting import TitleVectors
    from ml.retrieval import Core
    from ml.sequences import ItemSequences

UNLIKELY = -20.0
"""Log-probability of an item that a model cannot or does not name."""
WINDOWS = (1.0, 3.0, 7.0, 28.0, float("inf"))
"""Days back from the newest step known that popularity counts."""


@dataclass(frozen=True)
class Demand:
    """What was asked for lately: `steps` of each of `items` in each of `WINDOWS`, float32 [windows, items].

    `age_days` [items] are the days from an item's first step to the newest of all, -1 without a step.
    """

    items: list[str]
    steps: np.ndarray
    age_days: np.ndarray

    @classmethod
    def of(cls, sequences: ItemSequences) -> Demand:
        """Count the steps of `sequences`, back from the newest."""
        size = len(sequences.items)
        steps = np.concatenate([np.empty(0, np.int64), *sequences.sequences])
        times = np.concatenate([np.empty(0), *sequences.times])
        newest = times.max(initial=0.0)
        counts = [np.bincount(steps[times > newest - days], minlength=size).astype(np.float32) for days in WINDOWS]
        first = np.full(size, np.inf)
        np.minimum.at(first, steps, times)
        ages = np.where(np.isfinite(first), newest - first, -1.0).astype(np.float32)
        return cls(sequences.items, np.stack(counts), ages)


@dataclass(frozen=True)
class Scores:
    """A block of customers' scores of every item, float32 [customers, items]; None where nobody has the input."""

    knn: np.ndarray
    markov: np.ndarray
    core: np.ndarray
    next_item: np.ndarray | None
    query_title: np.ndarray | None
    query_text: np.ndarray | None
    answer_title: np.ndarray | None


class Sources:
    """The candidate items, and everything that scores them.

    Fitted parts (co-occurrence, transitions, item vectors, title encoder) come fitted; `demand` is that of the training
    part, or of all that a night knows.
    """

    def __init__(
        self,
        items: Sequence[str],
        texts: Sequence[str],
        title_vectors: np.ndarray,
        encoder: TitleVectors,
        core: Core,
        knn: ItemKNN,
        markov: Markov,
        demand: Demand,
        next_item: System | None = None,
    ) -> None:
        """`texts` (title and attributes) and `title_vectors` [items, dim] (made by `encoder`) are those of `items`.

        `next_item` is the sequential network, None to do without.
        """
        self.items = list(items)
        self.row_of = {item: row for row, item in enumerate(self.items)}
        self.core, self.knn, self.markov, self.encoder = core, knn, markov, encoder
        self.title_vectors = np.asarray(title_vectors, np.float32)
        self.next_item = next_item
        self.core_row = self._rows_of(core.items)
        self.counted_row = self._rows_of(knn.items)
        listed = [] if next_item is None else next_item.items
        self._next_row, self._next_place = self._rows_of(listed), {item: row for row, item in enumerate(listed)}
        self._siblings: dict[int, np.ndarray] = {}
        self._counted = {item: row for row, item in enumerate(knn.items)}
        counted = self._rows_of(demand.items)
        self.popularity = _columns(demand.steps, counted, 0.0)
        self.age_days = _columns(demand.age_days[None], counted, -1.0)[0]
        self._read_texts(texts)

    def scores(self, asked: Sequence[Asked]) -> Scores:
        """Return every source's scores of every item for a block of customers."""
        histories = [self._known(one) for one in asked]
        counted, ages = [items for items, _ in histories], [ages for _, ages in histories]
        core = self.core.encode([self.core.indices(one.items) for one in asked]) @ self.core.item_embeddings.T
        queries = [one.query or "" for one in asked]
        answers = ["" if one.answer is None else one.answer.title for one in asked]
        return Scores(
            knn=_columns(self.knn.scores(counted, ages), self.counted_row, 0.0),
            markov=_columns(self.markov.scores(counted, ages), self.counted_row, 0.0),
            core=_columns(core, self.core_row, -1.0),
            next_item=self._next_item(asked),
            query_title=self._by_title(queries),
            query_text=self._by_text(queries),
            answer_title=self._by_title(answers),
        )

    def siblings(self, row: int, count: int) -> np.ndarray:
        """Return the rows of the `count` items with the titles nearest to an item's own, itself among them."""
        if row not in self._siblings:
            self._siblings[row] = best(self.title_vectors @ self.title_vectors[row], count)
        return self._siblings[row]

    def _by_title(self, texts: Sequence[str]) -> np.ndarray | None:
        if not any(texts):
            return None
        scores = self.encoder.encode(list(texts)) @ self.title_vectors.T
        scores[[not text for text in texts]] = 0.0
        return scores

    def _by_text(self, texts: Sequence[str]) -> np.ndarray | None:
        if not any(texts) or self._words is None:
            return None
        return np.asarray((self._words.transform(texts) @ self._text_matrix.T).toarray(), np.float32)

    def _next_item(self, asked: Sequence[Asked]) -> np.ndarray | None:
        """Return log-probabilities of the next item; `UNLIKELY` for items and histories that the network knows not."""
        if self.next_item is None:
            return None
        histories = [[self._next_place[item] for item in one.items if item in self._next_place] for one in asked]
        ages = [np.zeros(len(history)) for history in histories]
        scores = self.next_item.scores([np.array(history, np.int64) for history in histories], ages)
        known = np.array([len(history) > 0 for history in histories], bool)
        scores[known] -= logsumexp(scores[known], axis=1, keepdims=True)
        return np.maximum(_columns(scores, self._next_row, UNLIKELY), UNLIKELY)

    def _known(self, one: Asked) -> tuple[np.ndarray, np.ndarray]:
        rows = np.array([self._counted.get(item, -1) for item in one.items], dtype=np.int64)
        return rows[rows >= 0], np.asarray(one.ages, dtype=np.float64)[rows >= 0]

    def _rows_of(self, vocabulary: Sequence[str]) -> np.ndarray:
        """Return each item's row in a source's vocabulary, -1 where the source does not know it."""
        index = {item: row for row, item in enumerate(vocabulary)}
        return np.array([index.get(item, -1) for item in self.items], dtype=np.int64)

    def _read_texts(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._words: Any = TfidfVectorizer(sublinear_tf=True)
        try:
            self._text_matrix: Any = self._words.fit_transform(texts).tocsr()
        except ValueError:  # no text holds a word
            self._words = None


def best(scores: np.ndarray, count: int, above: float = -np.inf) -> np.ndarray:
    """Return the rows of the `count` highest scores above `above`, highest first, ties in row order."""
    rows = np.flatnonzero(scores > above)  # first, for a crowd of equal scores slows the partition tenfold
    found = scores[rows]
    if 0 < count < len(rows):
        kept = found >= np.partition(found, -count)[-count]
        rows, found = rows[kept], found[kept]
    return rows[np.argsort(-found, kind="stable")][:count]


def _columns(scores: np.ndarray, rows: np.ndarray, missing: float) -> np.ndarray:
    """Return `scores` by candidate item; items that the source does not know, or scores -inf, get `missing`."""
    result = np.full((len(scores), len(rows)), missing, np.float32)
    known = rows >= 0
    result[:, known] = scores[:, rows[known]]
    result[~np.isfinite(result)] = missing
    return result
