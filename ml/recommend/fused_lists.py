"""A night's lists by fusion: everything that is known of a customer at the end of the day, ordered by the ranker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ml.days import end_of_day
from ml.ranking import asked_of_histories
from ml.recommend.fusing import Fusion, build_sources, category_items, counting_as_of
from ml.recommend.generating import current_query
from ml.recommend.serving import shelf_vectors
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.generation import Generated
    from ml.recommend.lists import Ranked
    from ml.recommend.serving import ServingModels, Shelf


def fused_lists(
    settings: Settings,
    warehouse: Warehouse,
    day: str,
    category: str,
    histories: pa.Table,
    chosen: pa.Table,
    generations: pa.Table,
    shelf: Shelf,
    models: ServingModels,
    fusion: Fusion,
    bought: Mapping[str, set[str]],
) -> dict[str, Ranked]:
    """Return the lists of the customers in `chosen` (rows of `histories`), by user id.

    Counting sources are fitted on all `histories` of the category, so that tonight's demand counts tonight.
    """
    from ml.memory import memory_as_of
    from ml.ranking.fusion import best_items

    counted = counting_as_of(histories, fusion.counting.get(category))
    if counted is None or not chosen.num_rows:
        return {}
    data, knn, markov = counted
    items = category_items(warehouse, category)
    items = items.filter(pc.field("item_id").isin(pa.array(shelf.items, pa.string())))
    vectors = shelf_vectors(models.title_index, items["item_id"].to_pylist(), models.titles.encode, shelf)
    sources = build_sources(items, vectors, models.titles, models.core, knn, markov, data, fusion.next_item)
    queries = [current_query(steps) for steps in chosen["steps"].to_pylist()]
    memory = memory_as_of(warehouse, warehouse.read("query_vectors"), settings.memory, day)
    known = sorted({query for query in queries if query})
    products = dict(zip(known, memory.lookup(category, known), strict=True)) if known else {}
    said = answers(generations) if fusion.ranker.uses_answers else {}
    asked = asked_of_histories(chosen, end_of_day(day, settings.log.zone), queries, products, said)
    users = chosen["user_id"].to_pylist()
    excluded = [bought.get(user, set()) for user in users]
    lists = best_items(asked, sources, fusion.ranker, settings.recommendations.k, excluded)
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
