"""Retrieval with mixup (paper 4.4): the first N items from the id list, the others from the title list."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from ml.retrieval.index import VectorIndex

Part = Literal["id", "title"]


def mixup(id_list: Sequence[str], title_list: Sequence[str], n: int, k: int) -> list[tuple[str, Part]]:
    """Return up to `k` different items with the list each came from, best first.

    The first `n` of `id_list`, then `title_list` without those. If the lists overlap or one is short, the other goes
    on: places left by a short id list are filled from the title list, and an exhausted title list by further items of
    the id list. So the result has min(k, different items in both lists) items.
    """
    ids = list(dict.fromkeys(id_list))
    picked: dict[str, Part] = {item: "id" for item in ids[: min(n, k)]}
    rest: list[tuple[Sequence[str], Part]] = [(title_list, "title"), (ids, "id")]
    for source, part in rest:
        for item in source:
            if len(picked) >= k:
                break
            picked.setdefault(item, part)
    return list(picked.items())


def mixup_rank(target: int, id_scores: np.ndarray, title_scores: np.ndarray, n: int) -> int:
    """Return the 1-based rank of item `target` in the full mixup ranking of all candidates.

    The ranking is the top `n` by `id_scores` [items], then all the others by `title_scores` [items]. A score of -inf
    among `id_scores` means that the id model does not know the item: it never enters the id part. Ties count against
    the target everywhere: equal scores stand before it, and where a tie decides which items make the id part, those
    make it that help the target least.
    """
    id_scores, title_scores = np.asarray(id_scores), np.asarray(title_scores)
    known = id_scores > -np.inf
    n = min(n, int(known.sum()))
    if known[target]:
        id_rank = int((id_scores >= id_scores[target]).sum())
        if id_rank <= n:
            return id_rank
    ahead = title_scores >= title_scores[target]
    ahead[target] = False
    if n == 0:
        return 1 + int(ahead.sum())
    boundary = np.partition(id_scores, len(id_scores) - n)[len(id_scores) - n]
    surely = id_scores > boundary
    tied = id_scores == boundary
    tied[target] = False
    # of the tied items, those that stand behind the target in the title list are taken first: they free no place
    harmless = int((tied & ~ahead).sum())
    removed = int((surely & ahead).sum()) + max(0, n - int(surely.sum()) - harmless)
    return 1 + n + int(ahead.sum()) - removed


def retrieve(
    id_queries: np.ndarray,
    title_queries: np.ndarray,
    id_index: VectorIndex,
    title_index: VectorIndex,
    n: int,
    k: int,
    allowed: Collection[str] | None = None,
    excluded: Sequence[Collection[str]] | None = None,
) -> list[list[tuple[str, Part, float]]]:
    """Return each user's mixup list of up to `k` (item, part, score), best first.

    Args:
        id_queries, title_queries: float32 [users, dim of the index]; a row of zeros means that the user has no such
            query, and the other list fills in.
        n, k: as in `mixup`.
        allowed: the only items that may be recommended (available ones); None allows all.
        excluded: per user, items to leave out (bought ones).
    """
    if len(id_queries) != len(title_queries):
        raise ValueError(f"{len(id_queries)} id queries and {len(title_queries)} title queries: one of each per user")
    left_out = excluded if excluded is not None else [()] * len(id_queries)
    id_lists = _search(id_queries, id_index, k, allowed, left_out)
    title_lists = _search(title_queries, title_index, k + n, allowed, left_out)
    result = []
    for ids, titles in zip(id_lists, title_lists, strict=True):
        scores: dict[Part, dict[str, float]] = {"id": ids, "title": titles}
        result.append([(item, part, scores[part][item]) for item, part in mixup(list(ids), list(titles), n, k)])
    return result


def _search(
    queries: np.ndarray,
    index: VectorIndex,
    k: int,
    allowed: Collection[str] | None,
    excluded: Sequence[Collection[str]],
) -> list[dict[str, float]]:
    """Return each user's best `k` items with scores, without the excluded ones; nothing for a query of zeros."""
    queries = np.asarray(queries, dtype=np.float32)
    result: list[dict[str, float]] = [{} for _ in queries]
    # users with about as many exclusions go together, so that one who bought everything costs the others nothing
    extra = np.array([0 if not len(e) else 1 << (len(e) - 1).bit_length() for e in excluded], dtype=np.int64)
    asked = np.flatnonzero(queries.any(axis=1))
    mask = None if allowed is None else index.mask(allowed)
    for more in np.unique(extra[asked]):
        users = asked[extra[asked] == more]
        found, scores = index.search(queries[users], k + int(more), mask)
        for user, items, values in zip(users, found, scores, strict=True):
            kept = ((i, float(v)) for i, v in zip(items, values, strict=True) if i not in excluded[user])
            result[user] = dict(x for x, _ in zip(kept, range(k), strict=False))
    return result
