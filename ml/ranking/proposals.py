"""A customer's candidates: what any source puts near the top of its own list."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ml.ranking.asked import Asked
from ml.ranking.sources import UNLIKELY, Scores, Sources, best

KNN, CORE, MARKOV, NEXT, POPULAR = 100, 100, 30, 100, 40
QUERY, SIBLINGS, ANSWER = 50, 20, 30
"""How many of each source's best items are candidates; siblings are the titles nearest to each of the newest items."""
NEWEST = 3
"""How many of the newest items of a history have their siblings looked up."""
_POPULAR_WINDOWS = (1, 2)


def popular_rows(sources: Sources) -> np.ndarray:
    """Return the rows of the items that are popular in one of the short windows: everybody's candidates."""
    lists = [best(sources.popularity[window], POPULAR) for window in _POPULAR_WINDOWS]
    return np.unique(np.concatenate(lists))


def propose(one: Asked, place: int, scores: Scores, sources: Sources, popular: np.ndarray) -> np.ndarray:
    """Return the ascending rows of the candidates of the customer at `place` in the block of `scores`."""
    lists = [
        popular,
        best(scores.knn[place], KNN, above=0.0),
        best(scores.markov[place], MARKOV, above=0.0),
        best(scores.core[place], CORE, above=-1.0),
        _rows(one.items, sources),
        _rows(one.memory, sources),
    ]
    if scores.next_item is not None:
        lists.append(best(scores.next_item[place], NEXT, above=UNLIKELY))
    if one.query and scores.query_title is not None:
        lists.append(best(scores.query_title[place], QUERY))
    if one.query and scores.query_text is not None:
        text = scores.query_text[place]
        lists += [best(text, QUERY, above=0.0), best(text_and_demand(text, sources), QUERY, above=0.0)]
    lists += [sources.siblings(int(row), SIBLINGS) for row in newest_rows(one, sources)[:NEWEST]]
    if one.answer is not None:
        lists.append(_rows([item for item, _ in one.answer.candidates], sources))
        lists.append(_rows([one.answer.item_id] if one.answer.item_id else [], sources))
        if scores.answer_title is not None and one.answer.title:
            lists.append(best(scores.answer_title[place], ANSWER))
    return np.unique(np.concatenate(lists)).astype(np.int64)


def text_and_demand(text: np.ndarray, sources: Sources) -> np.ndarray:
    """Return text match times demand of the last weeks: about what a shop's own search puts on top."""
    return text * np.log1p(sources.popularity[3] + 0.5)


def newest_rows(one: Asked, sources: Sources) -> np.ndarray:
    """Return the rows of a history's distinct items that may be recommended, the newest first."""
    return _rows(dict.fromkeys(reversed(one.items)), sources)


def _rows(items: Iterable[str], sources: Sources) -> np.ndarray:
    return np.array([sources.row_of[item] for item in items if item in sources.row_of], np.int64)
