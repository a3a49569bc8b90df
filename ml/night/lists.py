"""One customer's list, and the rows of `recommendations` that lists become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
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
    """Return the rows of `lists`; `versions` are the version columns of what the models made."""
    schema = TABLES["recommendations"].schema
    customers: dict[str, list[Any]] = {
        "user_id": [one.user_id for one in lists],
        "source": [one.source for one in lists],
        "listed_on": [one.listed_on for one in lists],
    }
    for column, value in versions.items():
        makers = ("language_model",) if column == "model_version" else ("language_model", "retrieval")
        nobody = False if column == "model_from_future" else None
        customers[column] = [value if one.source in makers else nobody for one in lists]
    owner = np.repeat(np.arange(len(lists)), [len(one.items) for one in lists])
    repeated = {
        name: pa.array(values, schema.field(name).type).take(pa.array(owner)) for name, values in customers.items()
    }
    entries = {
        "rank": [rank for one in lists for rank in range(1, len(one.items) + 1)],
        "item_id": [item for one in lists for item, _, _ in one.items],
        "part": [part for one in lists for _, part, _ in one.items],
        "score": [score for one in lists for _, _, score in one.items],
    }
    return pa.table({name: repeated[name] if name in repeated else entries[name] for name in schema.names}, schema)
