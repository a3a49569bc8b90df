"""One category's `recommendations` of one day, from histories, answers and champions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ml.fits.counting import counting_as_of
from ml.night.carried import carried_rows
from ml.night.fused_lists import FusedLists
from ml.night.lists import UserList, filled, list_rows, popular_list
from ml.night.mixup_lists import MixupLists
from ml.night.parts import BATCH_USERS, Part
from ml.settings import Settings
from ml.warehouse import Warehouse, parquet_views

if TYPE_CHECKING:
    from pyarrow.compute import Expression

    from ml.fits.counting import Counted
    from ml.fits.fusing import Fusion
    from ml.night.serving import ServingVersions
    from ml.night.shelf import Shelf


@dataclass(frozen=True)
class NightTask:
    """What one category's lists of one night are made from; it can be sent to a process that sees the same folders."""

    settings: Settings
    day: str
    category: str
    shelf: Shelf
    versions: ServingVersions
    histories: Part
    generations: Part
    previous: Part | None
    """The newest table before the day's."""

    @classmethod
    def open(
        cls, settings: Settings, warehouse: Warehouse, day: str, category: str, shelf: Shelf, versions: ServingVersions
    ) -> NightTask:
        """Return the task of what is published now."""
        before = day_before(warehouse, day, category)
        return cls(
            settings, day, category, shelf, versions,
            Part.open(warehouse, "user_histories", date=day),
            Part.open(warehouse, "generations", date=day, category=category),
            Part.open(warehouse, "recommendations", date=before, category=category) if before else None,
        )  # fmt: skip

    @property
    def own(self) -> Expression:
        """Whether a row of the histories is of this category."""
        return pc.field("category") == self.category

    def ranges(self, customers: int) -> Iterator[tuple[str, str]]:
        """Yield the first and the last of every `customers` active customers; none where the shelf is empty."""
        if self.shelf.items:
            for users in self.histories.customers(customers):
                yield users[0], users[-1]

    def fusion(self) -> Fusion | None:
        """Return the ranker that orders the lists, with what it was fitted with; None where the mixup joins them."""
        return self.versions.fusion() if self.settings.recommendations.order == "fusion" else None

    def count(self, fusion: Fusion | None) -> Counted | None:
        """Return what is counted of all the category's histories, once for all who make lists of them."""
        if fusion is None:
            return None
        return counting_as_of(self.histories.batches(["steps"], self.own), fusion.counting.get(self.category))


class NightLists:
    """Makes the lists of a range of a night's active customers.

    First choice: tonight's answer of the language model; then the list carried from the table before; then retrieval
    on the customer's own history; then the category's popular items.
    """

    def __init__(self, task: NightTask, warehouse: Warehouse, fusion: Fusion | None, counted: Counted | None) -> None:
        """`fusion` is the task's, `counted` what it counts."""
        self._task, self._shelf = task, task.shelf
        self._heard = fusion is None or fusion.ranker.uses_answers  # answers that no list reads made no list
        self._columns = task.versions.columns(task.day, fusion is not None)
        settings, models = task.settings, task.versions.load()
        if fusion is None:
            self._maker = MixupLists(settings, task.shelf, models)
        else:
            self._maker = FusedLists(settings, warehouse, task.day, task.category, counted, task.shelf, models, fusion)

    def rows(self, first: str, last: str) -> pa.Table:
        """Return the rows of `recommendations` of the customers from `first` to `last`, in the table's order."""
        task, settings = self._task, self._task.settings.recommendations
        histories = task.histories.between(first, last)
        users = sorted(set(histories["user_id"].to_pylist()))
        own = histories.filter(task.own)
        generations = task.generations.between(first, last)
        answered = answered_users(generations, self._shelf) if self._heard else set()
        bought = bought_items(own) if settings.exclude_bought else {}
        carried = self._carried(own, set(users) - answered, first, last)
        kept = set() if carried is None else set(carried["user_id"].to_pylist())
        fresh = own.filter(~pc.field("user_id").isin(pa.array(sorted(kept), pa.string())))
        made = self._maker.of(fresh, generations, bought)
        lists = []
        for user in users:
            if user not in kept:
                excluded = bought.get(user, set())
                items = made.get(user) or popular_list(self._shelf, settings.k, excluded)
                source = "popular" if user not in made else "language_model" if user in answered else "retrieval"
                lists.append(UserList(user, filled(items, self._shelf, settings.k, excluded), source, task.day))
        rows = list_rows(lists, self._columns)
        if carried is None:
            return rows
        together = pa.concat_tables([rows, carried.select(rows.schema.names).cast(rows.schema)])
        return together.sort_by([("user_id", "ascending"), ("rank", "ascending")])

    def _carried(self, own: pa.Table, users: set[str], first: str, last: str) -> pa.Table | None:
        task = self._task
        if task.previous is None:
            return None
        may_hold = pc.field("source").isin(["language_model", "carried"])
        previous = task.previous.between(first, last, may_hold)
        return carried_rows(previous, own, self._shelf, users, task.settings, task.versions.rolled_back)


def night_rows(task: NightTask, warehouse: Warehouse, customers: int = BATCH_USERS) -> Iterator[pa.RecordBatch]:
    """Yield the rows of everybody's lists in the table's order, made for `customers` at a time in this process."""
    if not task.shelf.items:
        return
    fusion = task.fusion()
    lists = NightLists(task, warehouse, fusion, task.count(fusion))
    for first, last in task.ranges(customers):
        yield from lists.rows(first, last).to_batches()


def customers_by_source(files: Sequence[Path]) -> dict[str, int]:
    """Return how many customers of a published table have which kind of list."""
    with parquet_views(lists=files) as connection:
        query = "SELECT source, count(*) FROM lists WHERE rank = 1 GROUP BY source ORDER BY source"
        return dict(connection.execute(query).fetchall())


def writer_of(warehouse: Warehouse, day: str, category: str) -> str | None:
    """Return the version that wrote the night's answers; None where there are none.

    A promotion or a rollback may come between the answers and the lists made of them, and the lists must name the
    version that wrote.
    """
    written = warehouse.head("generations", 1, ["model_version"], date=day, category=category)["model_version"]
    return written[0].as_py() if len(written) else None


def answered_users(generations: pa.Table, shelf: Shelf) -> set[str]:
    """Return the customers whose answer names an item of the shelf."""
    rows = generations.select(["user_id", "item_id", "parsed"]).to_pylist()
    return {row["user_id"] for row in rows if row["parsed"] and row["item_id"] in shelf}


def day_before(warehouse: Warehouse, day: str, category: str) -> str | None:
    """Return the newest day before `day` with published `recommendations` of `category`, if any."""
    earlier = (d for d in reversed(warehouse.days("recommendations")) if d < day)
    return next((d for d in earlier if warehouse.exists("recommendations", date=d, category=category)), None)


def bought_items(histories: pa.Table) -> dict[str, set[str]]:
    """Return the items each customer bought, by user id."""
    return {
        user: {s["item_id"] for s in steps if s["action"] == "purchase"}
        for user, steps in zip(histories["user_id"].to_pylist(), histories["steps"].to_pylist(), strict=True)
    }
