"""Held-out purchases ranked by the paper's mixup of the language model's answers (paper 4.4), over whole catalogues."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ml.evaluation import ItemExamples
    from ml.fits.fitting import TitleVectors
    from ml.generation import Generated
    from ml.retrieval import Core

Scores = tuple[np.ndarray, np.ndarray]
"""The candidates' scores in the id list (-inf: unknown to CORE) and in the title list."""


@dataclass(frozen=True)
class MixupRanking:
    """The full mixup ranking of `items`, whose titles have `title_vectors` [items, dim], for answered examples.

    The id list is by CORE's item table around the named item, which leads it; items that CORE does not know follow
    by title only. Where the constraint failed, the newest item of the history stands in for the answer.
    """

    answers: Mapping[str, Generated]
    core: Core
    titles: TitleVectors
    items: Sequence[str]
    title_vectors: np.ndarray

    def ranks(
        self, examples: ItemExamples, n: int, available: Callable[[str], Collection[str]] | None = None
    ) -> np.ndarray:
        """Return float64 [examples]: each target's rank among the items available that day, NaN where it is none."""
        from ml.retrieval import mixup_rank

        @cache
        def rows_on(day: str) -> np.ndarray:
            if available is None:
                return np.arange(len(self.items))
            return np.array(sorted(self._row[item] for item in available(day) if item in self._row), np.int64)

        places, candidates, targets = [], [], []
        for place, (target, day) in enumerate(zip(examples.targets, examples.days, strict=True)):
            chosen, row = rows_on(day), self._row.get(target, -1)
            at = int(np.searchsorted(chosen, row))
            if at < len(chosen) and chosen[at] == row:
                places.append(place)
                candidates.append(chosen)
                targets.append(at)
        ranks = np.full(len(examples), np.nan)
        scored = self._scores(examples, places, candidates)
        for place, target, scores in zip(places, targets, scored, strict=True):
            ranks[place] = mixup_rank(target, *scores, n)
        return ranks

    def lists(self, examples: ItemExamples, n: int, k: int) -> dict[str, list[str]]:
        """Return, by example_id, the first `k` items of the ranking of all items; ties in the items' order."""
        from ml.retrieval import mixup

        lists, places = {}, range(len(examples))
        scored = self._scores(examples, places, [np.arange(len(self.items))] * len(examples))
        for example, (by_id, by_title) in zip(examples.example_ids, scored, strict=True):
            known = int((by_id > -np.inf).sum())
            ids = np.argsort(-by_id, kind="stable")[: min(known, n + k)]
            ordered = np.argsort(-by_title, kind="stable")[: n + k]
            named, titled = ([self.items[int(i)] for i in rows] for rows in (ids, ordered))
            lists[example] = [item for item, _ in mixup(named, titled, n, k)]
        return lists

    def _scores(
        self, examples: ItemExamples, places: Sequence[int], candidates: Sequence[np.ndarray]
    ) -> Iterator[Scores]:
        """Yield the scores of the examples at `places`, each over its own candidates, rows of `items`."""
        core_row = {item: row for row, item in enumerate(self.core.items)}
        known = np.array([core_row.get(item, -1) for item in self.items])
        vectors = self.core.item_embeddings
        own = [self.answers[examples.example_ids[place]] for place in places]
        queries = self.titles.encode([answer.title for answer in own])
        for place, chosen, answer, query in zip(places, candidates, own, queries, strict=True):
            history = examples.histories[place]
            named = answer.item_id or (history[-1] if history else None)
            row = self._row.get(named, -1) if named else -1
            around = query if answer.title or row < 0 else self.title_vectors[row]
            by_id = np.full(len(chosen), -np.inf)
            if named in core_row:
                has = known[chosen] >= 0
                by_id[has] = vectors[known[chosen][has]] @ vectors[core_row[named]]
            by_id[chosen == row] = np.inf  # the named item itself is nearest to itself
            yield by_id, self.title_vectors[chosen] @ around

    @cached_property
    def _row(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.items)}
