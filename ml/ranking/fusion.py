"""Ranking by fusion: the candidates in the ranker's order, everything else behind them by CORE.

Imports torch: import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tqdm import tqdm

from ml.ranking.asked import Asked
from ml.ranking.features import describe, describe_answer
from ml.ranking.proposals import popular_rows, propose
from ml.ranking.ranker import RankedExample, Ranker
from ml.ranking.sources import Sources

BLOCK = 64
"""Customers whose scores of every item are held at once."""


@dataclass(frozen=True)
class Candidates:
    """A customer's candidates: rows among the items, features, the model's word on them; CORE's score of every item."""

    rows: np.ndarray
    features: np.ndarray
    answer: np.ndarray | None
    core: np.ndarray


def candidates(asked: Sequence[Asked], sources: Sources, label: str) -> Iterator[Candidates]:
    """Yield every customer's candidates, in order."""
    popular = popular_rows(sources)
    with tqdm(total=len(asked), desc=label, unit="customer", disable=None) as bar:
        for start in range(0, len(asked), BLOCK):
            block = asked[start : start + BLOCK]
            scores = sources.scores(block)
            for place, one in enumerate(block):
                rows = propose(one, place, scores, sources, popular)
                asked_of = one, place, rows, scores, sources
                yield Candidates(rows, describe(*asked_of), describe_answer(*asked_of), scores.core[place])
                bar.update()


def ranked_examples(asked: Sequence[Asked], targets: Sequence[str], sources: Sources) -> list[RankedExample | None]:
    """Return what a ranker is fitted on: each question, None where the target is not among its candidates."""
    examples: list[RankedExample | None] = []
    for found, target in zip(candidates(asked, sources, "candidates"), targets, strict=True):
        places = np.flatnonzero(found.rows == sources.row_of.get(target, -1))
        examples.append(RankedExample(found.features, int(places[0]), found.answer) if len(places) else None)
    return examples


@dataclass(frozen=True)
class Ranking:
    """A customer's ranking of all items: the candidates by the ranker, then everything else by CORE."""

    rows: np.ndarray
    scores: np.ndarray
    core: np.ndarray

    def rank(self, row: int, allowed: np.ndarray | None = None) -> float:
        """Return the 1-based rank of an item among the allowed (a mask; None: all), NaN where it is not allowed.

        Ties count against it.
        """
        if allowed is not None and not allowed[row]:
            return float("nan")
        first = np.ones(len(self.rows), bool) if allowed is None else allowed[self.rows]
        places = np.flatnonzero(self.rows == row)
        if len(places):
            return float((first & (self.scores >= self.scores[places[0]])).sum())
        others = np.ones(len(self.core), bool) if allowed is None else allowed.copy()
        others[self.rows] = False
        return float(first.sum() + (others & (self.core >= self.core[row])).sum())

    def best(self, k: int) -> np.ndarray:
        """Return the rows of the `k` best items; an item outside the candidates only where these are fewer."""
        own = self.rows[np.argsort(-self.scores, kind="stable")][:k]
        others = np.argsort(-self.core, kind="stable")[: k + len(self.rows)]
        return np.concatenate([own, others[~np.isin(others, self.rows)]])[:k]


def rankings(asked: Sequence[Asked], sources: Sources, ranker: Ranker) -> Iterator[Ranking]:
    """Yield every customer's ranking, in order."""
    for found, scores in _scored(asked, sources, ranker, "rank by ours"):
        yield Ranking(found.rows, scores, found.core)


def best_items(
    asked: Sequence[Asked], sources: Sources, ranker: Ranker, k: int, excluded: Sequence[Collection[str]]
) -> Iterator[list[tuple[str, float]]]:
    """Yield each customer's `k` best (item, score), without the excluded ones."""
    for (found, scores), left_out in zip(_scored(asked, sources, ranker, "rank"), excluded, strict=True):
        order = np.argsort(-scores, kind="stable")
        listed = ((sources.items[found.rows[i]], float(scores[i])) for i in order)
        yield [pair for pair, _ in zip((p for p in listed if p[0] not in left_out), range(k), strict=False)]


def _scored(
    asked: Sequence[Asked], sources: Sources, ranker: Ranker, label: str
) -> Iterator[tuple[Candidates, np.ndarray]]:
    """Yield every customer's candidates with the ranker's scores, a block at a time: one small pass each is slow."""
    for block in _batched(candidates(asked, sources, label), BLOCK):
        scores = ranker.scores_of([found.features for found in block], [found.answer for found in block])
        yield from zip(block, scores, strict=True)


def _batched(rows: Iterator[Candidates], size: int) -> Iterator[list[Candidates]]:
    """Yield lists of `size`, the last one shorter."""
    while block := list(islice(rows, size)):
        yield block
