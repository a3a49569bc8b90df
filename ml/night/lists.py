"""One customer's list, and the rows of `recommendations` that lists become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ml.tables import TABLES

if TYPE_CHECKING:
    from ml.night.shelf import Shelf

Ranked = Sequence[tuple[str, str, float]]
"""A list as (item, part, score), best first."""


@dataclass(frozen=True)
class UserList:
    """One customer's list, how it was made, and since when."""

    user_id: str
    items: Ranked
    source: str
    listed_on: str


def popular_list(shelf: Shelf, k: int, excluded: set[str]) -> Ranked:
    """Return the shelf's most popular items."""
    chosen = [item for item in shelf.items[: k + len(excluded)] if item not in excluded][:k]
    return [(item, "popular", -float(rank)) for rank, item in enumerate(chosen, start=1)]


def filled(items: Ranked, shelf: Shelf, k: int, excluded: set[str]) -> Ranked:
    """Return the list with popular items after it where it has fewer than `k`."""
    if len(items) >= k:
        return items[:k]
    have = {item for item, _, _ in items} | excluded
    floor = min((score for _, _, score in items), default=0.0)
    extra = [i for i in shelf.items[: k + len(have)] if i not in have][: k - len(items)]
    return [*items, *((item, "popular", floor - rank) for rank, item in enumerate(extra, start=1))]


def list_rows(lists: Sequence[UserList], versions: Mapping[str, Any]) -> pa.Table:
    """Return the rows of `lists`; `versions` are the version columns of what a model made."""
    with_model = {"language_model"}
    with_retrieval = {"language_model", "retrieval"}
    rows = [
        {
            "user_id": one.user_id, "rank": rank, "item_id": item, "score": score, "source": one.source, "part": part,
            "listed_on": one.listed_on,
            "model_version": versions["model_version"] if one.source in with_model else None,
            "title_encoder_version": versions["title_encoder_version"] if one.source in with_retrieval else None,
            "item_embeddings_version": versions["item_embeddings_version"] if one.source in with_retrieval else None,
            "ranker_version": versions["ranker_version"] if one.source in with_retrieval else None,
            "fitted_until": versions["fitted_until"] if one.source in with_retrieval else None,
            "model_from_future": bool(versions["model_from_future"]) and one.source in with_retrieval,
        }
        for one in lists
        for rank, (item, part, score) in enumerate(one.items, start=1)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, TABLES["recommendations"].schema)
