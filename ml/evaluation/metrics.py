"""Ranking metrics per test example, from the rank of the one relevant item (paper 5.1: Recall@N, NDCG@N, MRR)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ml.errors import BadInputError

Ranks = Sequence[int | float | None] | npt.NDArray[np.generic]
"""1-based ranks; None or NaN where the target is never ranked, which counts as 0 in every metric."""


def as_ranks(ranks: Ranks) -> np.ndarray:
    """Return ranks as float64 [n], infinite where the target is never ranked.

    Raises BadInputError for a rank below 1 or one that is not whole.
    """
    values = np.array([np.nan if rank is None else rank for rank in ranks], dtype=np.float64)
    values[np.isnan(values)] = np.inf
    finite = values[np.isfinite(values)]
    wrong = finite[(finite < 1) | (finite != np.floor(finite))]
    if len(wrong) or np.any(values == -np.inf):
        raise BadInputError(f"rank {wrong[0] if len(wrong) else -np.inf}: expected whole numbers from 1, or None")
    return values


def recall_at_k(ranks: Ranks, k: int) -> np.ndarray:
    """Return float64 [n]: 1 where the target stands among the first `k`, else 0."""
    return (as_ranks(ranks) <= k).astype(np.float64)


def ndcg_at_k(ranks: Ranks, k: int) -> np.ndarray:
    """Return float64 [n]: 1 / log2(rank + 1) where the target stands among the first `k`, else 0.

    With one relevant item the ideal gain is 1, so this is the normalised gain.
    """
    values = as_ranks(ranks)
    return np.where(values <= k, 1 / np.log2(values + 1), 0.0)


def reciprocal_rank(ranks: Ranks) -> np.ndarray:
    """Return float64 [n]: 1 / rank over the full ranking; 0 where the target is never ranked."""
    return 1 / as_ranks(ranks)


def metric_values(ranks: Ranks, k: int) -> dict[str, np.ndarray]:
    """Return the three metrics per example under the names that `evaluation_metrics` has."""
    return {"recall": recall_at_k(ranks, k), "ndcg": ndcg_at_k(ranks, k), "mrr": reciprocal_rank(ranks)}
