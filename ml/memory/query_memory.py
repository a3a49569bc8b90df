"""The query-product memory (paper 4.2): what searches led to in a rolling window of days.

Counts are whole numbers, added when a day enters the window and subtracted when it leaves, so a memory that walked
through the days equals one built from scratch.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.errors import BadInputError
from ml.settings import MemorySettings
from ml.tables import TABLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COUNTS = ("clicks", "purchases", "positions", "position_sum")
_SPARE_NEIGHBOURS = 16
"""Neighbours fetched beyond Q, so that ties are broken by us (by text) and not by the order of the index."""


class ProductCounts(NamedTuple):
    """What a query led to for one product in the window; `days` is how many daily rows it is the sum of."""

    clicks: int
    purchases: int
    positions: int
    position_sum: int
    days: int

    @property
    def mean_position(self) -> float | None:
        """Mean organic position, None where never known."""
        return self.position_sum / self.positions if self.positions else None


_NOTHING = ProductCounts(0, 0, 0, 0, 0)
_Row = tuple[str, str, str, int, int, int, int]


class QueryMemory:
    """Products by query and category over the last `window_days` days, and the nearest queries' products.

    `vectors` has the columns of `query_vectors`; rows of other encoders than the settings' are ignored.
    """

    def __init__(self, vectors: pa.Table, settings: MemorySettings) -> None:
        self._settings = settings
        own = vectors.filter(pc.field("encoder") == settings.encoder).combine_chunks()
        self._vector_row = {query: row for row, query in enumerate(own["query"].to_pylist())}
        flat = (
            pa.chunked_array([c.flatten() for c in own["vector"].chunks], pa.float32())
            .to_numpy()
            .astype(np.float32, copy=False)
        )
        self._vectors: NDArray[np.float32] = flat.reshape(own.num_rows, -1) if own.num_rows else flat.reshape(0, 1)
        self._days: deque[tuple[dt.date, list[_Row]]] = deque()
        self._day: dt.date | None = None
        self._counts: dict[str, dict[str, dict[str, ProductCounts]]] = {}
        self._ranked: dict[tuple[str, str], list[str]] = {}
        self._indexes: dict[str, _CategoryIndex] = {}

    def advance(self, day: str, daily: pa.Table) -> None:
        """Add one day of `query_daily` and drop the days that leave the window; `day` must be later than the last.

        After it the memory holds the `window_days` days that end with `day`.
        """
        date = dt.date.fromisoformat(day)
        if self._day is not None and date <= self._day:
            raise BadInputError(f"query memory: day {day} does not follow {self._day}; days are added in time order")
        self._day = date
        first = date - dt.timedelta(days=self._settings.window_days - 1)
        while self._days and self._days[0][0] < first:
            self._change(self._days.popleft()[1], -1)
        rows = _rows(daily)
        if rows:
            self._days.append((date, rows))
            self._change(rows, 1)

    def lookup(self, category: str, queries: Sequence[str]) -> list[list[str]]:
        """Return, per query, the item ids of its Q nearest queries' best V products, best first, none twice.

        Nearest by cosine among the queries that the memory holds in `category`; a query that it holds itself comes
        first. Raises BadInputError for a query without a vector.
        """
        held = self._counts.get(category)
        asked = list(dict.fromkeys(query for query in queries if query))
        if not held or not asked:
            return [[] for _ in queries]
        if category not in self._indexes:
            names = sorted(held)
            self._indexes[category] = _CategoryIndex(names, self._vectors_of(names))
        nearest = self._indexes[category].nearest(asked, self._vectors_of(asked), self._settings.queries)
        found = {
            query: list(dict.fromkeys(item for near in row for item in self._top(category, near)))
            for query, row in zip(asked, nearest, strict=True)
        }
        return [list(found[query]) if query else [] for query in queries]

    def table(self, day: str) -> pa.Table:
        """Return the `query_memory` table of the memory as it is, marked as of `day`."""
        rows = [
            self._table_row(day, category, query) for category, held in self._counts.items() for query in sorted(held)
        ]
        rows.sort(key=lambda row: (row["category"], row["query"]))
        return pa.Table.from_pylist(rows, TABLES["query_memory"].schema)

    def _table_row(self, day: str, category: str, query: str) -> dict[str, object]:
        items = self._top(category, query)
        counts = [self._counts[category][query][item] for item in items]
        return {
            "as_of": day,
            "category": category,
            "query": query,
            "items": items,
            "mean_positions": [count.mean_position for count in counts],
            "clicks": [count.clicks for count in counts],
            "purchases": [count.purchases for count in counts],
        }

    def _change(self, rows: Iterable[_Row], sign: int) -> None:
        for category, query, item, *counts in rows:
            products = self._counts.setdefault(category, {}).setdefault(query, {})
            old = products.get(item, _NOTHING)
            new = ProductCounts(*(a + sign * b for a, b in zip(old, (*counts, 1), strict=True)))
            if new.days:
                products[item] = new
            else:
                del products[item]
                if not products:
                    del self._counts[category][query]
            self._ranked.pop((category, query), None)
            self._indexes.pop(category, None)

    def _top(self, category: str, query: str) -> list[str]:
        """The query's best V products: mean organic position (unknown last), then purchases, then clicks, then id."""
        key = (category, query)
        if key not in self._ranked:
            products = self._counts[category][query].items()
            best = sorted(products, key=lambda product: (_rank(product[1]), product[0]))
            self._ranked[key] = [item for item, _ in best[: self._settings.products]]
        return self._ranked[key]

    def _vectors_of(self, queries: Iterable[str]) -> NDArray[np.float32]:
        names = list(queries)
        missing = [query for query in names if query not in self._vector_row]
        if missing:
            raise BadInputError(
                f"query_vectors lacks {len(missing)} queries for encoder {self._settings.encoder!r}, such as "
                f"{missing[0]!r}: append their vectors before the memory is asked"
            )
        return self._vectors[[self._vector_row[query] for query in names]]


class _CategoryIndex:
    """Exact inner-product search over one category's queries."""

    def __init__(self, queries: list[str], vectors: NDArray[np.float32]) -> None:
        import faiss

        self._queries = queries
        self._held = frozenset(queries)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors))  # pyright: ignore[reportCallIssue]

    def nearest(self, asked: Sequence[str], vectors: NDArray[np.float32], count: int) -> Iterator[list[str]]:
        """Yield per asked query the `count` nearest held ones: itself first, then by cosine, ties by text."""
        k = min(count + _SPARE_NEIGHBOURS, len(self._queries))
        scores, rows = self._index.search(np.ascontiguousarray(vectors), k)  # pyright: ignore[reportCallIssue]
        for query, row_scores, row in zip(asked, np.round(scores, 5).tolist(), rows.tolist(), strict=True):
            near = sorted((-score, self._queries[i]) for score, i in zip(row_scores, row, strict=True))
            itself = [query] if query in self._held else []
            yield list(dict.fromkeys([*itself, *(name for _, name in near)]))[:count]


def _rank(count: ProductCounts) -> tuple[float, int, int]:
    mean = count.mean_position
    return (float("inf") if mean is None else mean, -count.purchases, -count.clicks)


def _rows(daily: pa.Table) -> list[_Row]:
    columns = [daily[name].to_pylist() for name in ("category", "query", "item_id", *_COUNTS)]
    return list(zip(*columns, strict=True))
