"""A candidate in numbers: what every source says of it, for one customer at one moment."""

from __future__ import annotations

import math

import numpy as np

from ml.ranking.asked import Asked
from ml.ranking.proposals import newest_rows, text_and_demand
from ml.ranking.sources import UNLIKELY, WINDOWS, Scores, Sources

FEATURES = (
    *("knn", "knn_rank", "markov", "markov_rank", "core", "core_rank", "next_item", "next_item_rank"),
    *(f"popularity_{days:g}_days" for days in WINDOWS),
    *("age", "never_seen"),
    *("times_bought", "times_clicked", "recency_in_steps", "recency_in_days", "newest_was_purchase", "in_history"),
    *("title_like_newest", "title_like_any", "core_like_newest", "core_like_any", "history_length"),
    *("memory", "query_title", "query_title_rank", "query_text", "query_text_rank", "query_demand_rank", "has_query"),
)
"""Names of the columns that `describe` returns."""
ANSWER_FEATURES = (
    *("answer", "answer_rank", "answer_likelihood"),
    *("answer_title", "answer_title_rank", "answer_core"),
)
"""Names of the columns that `describe_answer` returns."""
QUERY_FEATURES = ("memory", "query_title", "query_title_rank", "query_text", "query_text_rank", "query_demand_rank")
_NEWEST = 5
_RECENCY_DAYS = 3.0


def describe(one: Asked, place: int, rows: np.ndarray, scores: Scores, sources: Sources) -> np.ndarray:
    """Return float32 [candidates, FEATURES] of the item `rows` for the customer at `place` in the block of `scores`."""
    columns = [
        *_sources(place, rows, scores),
        *(np.log1p(counts[rows]) for counts in sources.popularity),
        np.log1p(np.maximum(sources.age_days[rows], 0.0)),
        (sources.age_days[rows] < 0).astype(np.float32),
        *_history(one, rows, sources),
        *_likeness(one, rows, sources),
        *_search(one, place, rows, scores, sources),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _sources(place: int, rows: np.ndarray, scores: Scores) -> list[np.ndarray]:
    knn, markov, core = scores.knn[place, rows], scores.markov[place, rows], scores.core[place, rows]
    knn, markov = np.log(np.maximum(knn, 0) + 1e-6), np.log(np.maximum(markov, 0) + 1e-7)
    following = np.zeros(len(rows), np.float32) if scores.next_item is None else scores.next_item[place, rows]
    columns = (knn, markov, core, following)
    return [column for scored in columns for column in (scored, log_rank(scored))]


def _history(one: Asked, rows: np.ndarray, sources: Sources) -> list[np.ndarray]:
    """What the customer did with the candidate itself."""
    columns = np.zeros((6, len(rows)), np.float32)
    place_of = {int(row): place for place, row in enumerate(rows)}
    length = len(one.items)
    for step, (item, bought, age) in enumerate(zip(one.items, one.bought, one.ages, strict=True)):
        place = place_of.get(sources.row_of.get(item, -1))
        if place is None:
            continue
        columns[0 if bought else 1, place] += 1
        recency = 1 / (length - step), math.exp(-max(age, 0.0) / _RECENCY_DAYS)
        columns[2:, place] = (*recency, float(bought), 1.0)
    return list(columns)


def _likeness(one: Asked, rows: np.ndarray, sources: Sources) -> list[np.ndarray]:
    """How like the newest items of the history the candidate is, by title and by id."""
    length = np.full(len(rows), math.log1p(len(one.items)), np.float32)
    newest = newest_rows(one, sources)[:_NEWEST]
    if not len(newest):
        return [*np.zeros((4, len(rows)), np.float32), length]
    by_title = sources.title_vectors[newest] @ sources.title_vectors[rows].T
    by_core = _core_likeness(newest, rows, sources)
    return [by_title[0], by_title.max(axis=0), by_core[0], by_core.max(axis=0), length]


def _core_likeness(left: np.ndarray, right: np.ndarray, sources: Sources) -> np.ndarray:
    """Cosines of two lists of items under CORE, 0 where it does not know one."""
    a, b = sources.core_row[left], sources.core_row[right]
    vectors = sources.core.item_embeddings
    return (vectors[np.maximum(a, 0)] @ vectors[np.maximum(b, 0)].T) * (a >= 0)[:, None] * (b >= 0)


def _search(one: Asked, place: int, rows: np.ndarray, scores: Scores, sources: Sources) -> list[np.ndarray]:
    memory = {item: 1 / rank for rank, item in reversed(list(enumerate(one.memory, start=1)))}
    remembered = np.array([memory.get(sources.items[row], 0.0) for row in rows], np.float32)
    if not one.query:
        return [remembered, *np.zeros((6, len(rows)), np.float32)]
    nothing = np.zeros(len(rows), np.float32)
    title = nothing if scores.query_title is None else scores.query_title[place, rows]
    text = nothing if scores.query_text is None else scores.query_text[place, rows]
    demand = nothing if scores.query_text is None else text_and_demand(scores.query_text[place], sources)[rows]
    has_query = np.ones(len(rows), np.float32)
    return [remembered, title, log_rank(title), text, log_rank(text), log_rank(demand), has_query]


def describe_answer(one: Asked, place: int, rows: np.ndarray, scores: Scores, sources: Sources) -> np.ndarray | None:
    """Return what the language model says of the candidates, float32 [candidates, ANSWER_FEATURES]; None: nothing."""
    if one.answer is None or one.answer.item_id is None:
        return None
    named = one.answer.item_id
    found = one.answer.candidates or ((named, one.answer.log_probability or 0.0),)
    likelihood = dict(found)
    place_of = {item: rank for rank, (item, _) in enumerate(found, start=1)}
    items = [sources.items[row] for row in rows]
    likely = np.array([likelihood.get(item, UNLIKELY) for item in items], np.float32)
    ranks = np.array([math.log1p(place_of.get(item, len(found) + 1)) for item in items], np.float32)
    nothing = np.zeros(len(rows), np.float32)
    title = nothing if scores.answer_title is None else scores.answer_title[place, rows]
    row = sources.row_of.get(named)
    core = nothing if row is None else _core_likeness(np.array([row]), rows, sources)[0]
    is_named = np.array([item == named for item in items], np.float32)
    columns = [is_named, ranks, likely - UNLIKELY, title, log_rank(title), core]
    return np.stack(columns, axis=1).astype(np.float32)


def log_rank(values: np.ndarray) -> np.ndarray:
    """Return the logarithm of 1 + each value's place among the candidates, the highest first; equal values tie."""
    ordered = np.sort(-values)
    return np.log1p(np.searchsorted(ordered, -values, side="left")).astype(np.float32)
