"""A night's lists by fusion: everything that is known of a customer at the end of the day, ordered by the ranker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ml.days import end_of_day
from ml.fits.fusing import Fusion, build_sources, category_items
from ml.night.generating import current_query
from ml.night.serving import shelf_vectors
from ml.ranking import asked_of_histories
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.fits.counting import Counted
    from ml.generation import Generated
    from ml.night.lists import Ranked
    from ml.night.serving import ServingModels
    from ml.night.shelf import Shelf
    from ml.ranking import Sources


class FusedLists:
    """Makes lists of one category and night, customers by customers; the sources are built once.

    `counted` is what is counted of all histories of the category, so that tonight's demand counts tonight; None where
    nobody has an item step.
    """

    def __init__(
        self,
        settings: Settings,
        warehouse: Warehouse,
        day: str,
        category: str,
        counted: Counted | None,
        shelf: Shelf,
        models: ServingModels,
        fusion: Fusion,
    ) -> None:
        from ml.memory import memory_as_of

        self._settings, self._category, self._ranker = settings, category, fusion.ranker
        self._moment = end_of_day(day, settings.log.zone)
        self._memory = memory_as_of(warehouse, warehouse.read("query_vectors"), settings.memory, day)
        self._sources: Sources | None = None
        if counted is not None:
            items = category_items(warehouse, category)
            items = items.filter(pc.field("item_id").isin(pa.array(shelf.items, pa.string())))
            vectors = shelf_vectors(models.title_index, items["item_id"].to_pylist(), models.titles.encode, shelf)
            self._sources = build_sources(items, vectors, models.titles, models.core, counted, fusion.next_item)

    def of(self, histories: pa.Table, generations: pa.Table, bought: Mapping[str, set[str]]) -> dict[str, Ranked]:
        """Return the lists of the customers of `histories`, by user id; `bought` are items to leave out."""
        from ml.ranking.fusion import best_items

        if self._sources is None or not histories.num_rows:
            return {}
        queries = [current_query(steps) for steps in histories["steps"].to_pylist()]
        known = sorted({query for query in queries if query})
        products = dict(zip(known, self._memory.lookup(self._category, known), strict=True)) if known else {}
        said = answers(generations) if self._ranker.uses_answers else {}
        asked = asked_of_histories(histories, self._moment, queries, products, said)
        users = histories["user_id"].to_pylist()
        excluded = [bought.get(user, set()) for user in users]
        lists = best_items(asked, self._sources, self._ranker, self._settings.recommendations.k, excluded)
        return {
            user: [(item, "fusion", score) for item, score in items]
            for user, items in zip(users, lists, strict=True)
            if items
        }


def answers(generations: pa.Table) -> dict[str, Generated]:
    """Return the parsed answers of a night by user id."""
    from ml.generation import Generated

    return {
        row["user_id"]: Generated(
            row["item_id"],
            row["title"] or "",
            row["log_probability"],
            True,
            tuple((c["item_id"], c["log_probability"]) for c in row["candidates"]),
        )
        for row in generations.to_pylist()
        if row["parsed"]
    }
