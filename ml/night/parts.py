"""A night's tables read a range of customers at a time: what a step holds does not grow with the customers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ml.errors import HemlineError
from ml.tables import TABLES
from ml.warehouse import Warehouse, parquet_views

if TYPE_CHECKING:
    from pyarrow.compute import Expression
    from pyarrow.dataset import Dataset

BATCH_USERS = 8192
"""Customers whose rows are held at once."""


@dataclass(frozen=True)
class Part:
    """Published rows of a table with a `user_id`; the files are those of the moment it was opened.

    A partition that is replaced while it is read raises HemlineError: half of two versions is never returned. It can
    be sent to another process that sees the files.
    """

    name: str
    files: tuple[str, ...]
    schema: pa.Schema

    @classmethod
    def open(cls, warehouse: Warehouse, table: str, **levels: str) -> Part:
        """Return the rows of the partitions with these levels; columns as in the files."""
        name = f"{table} ({', '.join(f'{level}={value}' for level, value in levels.items())})"
        return cls(name, tuple(map(str, warehouse.files(table, **levels))), TABLES[table].schema)

    def between(self, first: str, last: str, where: Expression | None = None) -> pa.Table:
        """Return the rows of the customers from `first` to `last`, both included, by customer in the table's order."""
        rows = (pc.field("user_id") >= first) & (pc.field("user_id") <= last)
        with self.whole():
            found = self._dataset().to_table(filter=rows if where is None else rows & where)
        return found.sort_by("user_id") if len(self.files) > 1 else found  # one file is in order

    def of(self, users: Collection[str], where: Expression | None = None) -> pa.Table:
        """Return the rows of these customers, in the table's order."""
        rows = pc.field("user_id").isin(pa.array(sorted(users), pa.string()))
        with self.whole():
            return self._dataset().to_table(filter=rows if where is None else rows & where)

    def batches(self, columns: list[str], where: Expression) -> Iterator[pa.RecordBatch]:
        """Yield some columns of the rows that fulfil `where`, a few thousand rows at a time."""
        with self.whole():
            yield from self._dataset().to_batches(
                columns=columns, filter=where, batch_size=BATCH_USERS, batch_readahead=2, fragment_readahead=1
            )

    def customers(self, size: int) -> Iterator[list[str]]:
        """Yield every customer once, in order, `size` at a time."""
        if not self.files:
            return
        with self.whole(), parquet_views(rows=self.files) as connection:
            found = connection.execute("SELECT DISTINCT user_id FROM rows ORDER BY user_id")
            while rows := found.fetchmany(size):
                yield [user for (user,) in rows]

    def _dataset(self) -> Dataset:
        import pyarrow.dataset as ds

        return ds.dataset(list(self.files), schema=self.schema, format="parquet", partitioning=None)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Raise HemlineError where what the block does fails because a file of the part is gone."""
        try:
            yield
        except Exception as error:
            if all(Path(file).exists() for file in self.files):
                raise
            raise HemlineError(f"{self.name} was replaced while it was read: run this again ({error})") from error


def customer_count(files: Sequence[Path]) -> int:
    """Return how many customers stand in these Parquet files."""
    with parquet_views(rows=files) as connection:
        row = connection.execute("SELECT count(DISTINCT user_id) FROM rows").fetchone()
    return row[0] if row else 0


def most_active(
    histories: Part, categories: Sequence[str], limit: int, answered: Mapping[str, Collection[str]]
) -> dict[str, list[str]]:
    """Return, by category, whom the language model is asked about: at most `limit` in all, most active first.

    Those in `answered` have an answer that still holds. Ties: more item steps first, then category and user id, so
    that the choice does not depend on the order of rows.
    """
    kept = [(category, user) for category, users in answered.items() for user in sorted(users)]
    chosen: dict[str, list[str]] = {category: [] for category in categories}
    if not limit or not categories or not histories.files:
        return chosen
    with histories.whole(), parquet_views(histories=histories.files) as connection:
        connection.register(
            "kept",
            pa.table({"category": pa.array([c for c, _ in kept], pa.string()),
                      "user_id": pa.array([u for _, u in kept], pa.string())}),
        )  # fmt: skip
        rows = connection.execute(
            "SELECT category, user_id FROM histories ANTI JOIN kept USING (category, user_id) "
            "WHERE item_steps > 0 AND list_contains($categories, category) "
            "ORDER BY recent_events DESC, item_steps DESC, category, user_id LIMIT $limit",
            {"categories": list(categories), "limit": limit},
        ).fetchall()
    for category, user in rows:
        chosen[category].append(user)
    return chosen
