"""One category's `recommendations` of one day, from histories, answers and champions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ml.recommend.fused_lists import fused_lists
from ml.recommend.lists import (
    Indexes,
    Ranked,
    UserList,
    carried_rows,
    filled,
    language_model_lists,
    list_batches,
    popular_list,
    retrieval_lists,
)
from ml.recommend.serving import night_id_index, night_title_index
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.recommend.serving import ServingModels, Shelf


@dataclass(frozen=True)
class NightLists:
    """A category's rows, and how many customers got which kind of list."""

    batches: Iterator[pa.RecordBatch]
    customers: Counter[str]


def night_lists(
    settings: Settings,
    warehouse: Warehouse,
    day: str,
    category: str,
    shelf: Shelf,
    models: ServingModels,
) -> NightLists:
    """Return the lists of every active customer of `day` in `category`.

    First choice: tonight's answer of the language model; then the list carried from the table before; then retrieval
    on the customer's own history; then the category's popular items.
    """
    k = settings.recommendations.k
    histories = warehouse.read("user_histories", date=day)
    everyone = sorted(set(histories["user_id"].to_pylist()))
    own = histories.filter(pc.field("category") == category)
    bought = bought_items(own) if settings.recommendations.exclude_bought else {}
    customers: Counter[str] = Counter()
    if not shelf.items:
        return NightLists(iter(()), customers)
    generations = warehouse.read("generations", date=day, category=category)
    fusion = models.fusion if settings.recommendations.order == "fusion" else None
    unheard = fusion is not None and not fusion.ranker.uses_answers  # what no list reads made no list
    answered = set() if unheard else answered_users(generations, shelf)
    previous = previous_lists(warehouse, day, category)
    carried = carried_rows(previous, own, shelf, set(everyone) - answered, settings, models.rolled_back)
    carried_users = set(carried["user_id"].to_pylist()) if carried is not None else set()
    fresh = own.filter(~pc.field("user_id").isin(pa.array(sorted(carried_users), pa.string())))
    if fusion is not None:
        made = fused_lists(settings, warehouse, day, category, own, fresh, generations, shelf, models, fusion, bought)
    else:
        made = mixup_night(settings, fresh, generations, answered, shelf, models, bought)
    customers["carried"] = len(carried_users)

    def lists() -> Iterator[UserList]:
        for user in everyone:
            if user in carried_users:
                continue
            source = "popular" if user not in made else "language_model" if user in answered else "retrieval"
            items = made.get(user) or popular_list(shelf, k, bought.get(user, set()))
            customers[source] += 1
            yield UserList(user, filled(items, shelf, k, bought.get(user, set())), source, day)

    return NightLists(
        list_batches(lists(), versions(models, day, settings.recommendations.order == "fusion"), carried), customers
    )


def writer_of(warehouse: Warehouse, day: str, category: str) -> str | None:
    """Return the version that wrote the night's answers; None where there are none.

    A promotion or a rollback may come between the answers and the lists made of them, and the lists must name the
    version that wrote.
    """
    written = warehouse.read("generations", ["model_version"], date=day, category=category)["model_version"]
    return written[0].as_py() if len(written) else None


def answered_users(generations: pa.Table, shelf: Shelf) -> set[str]:
    """Return the customers whose answer names an item of the shelf."""
    rows = generations.select(["user_id", "item_id", "parsed"]).to_pylist()
    return {row["user_id"] for row in rows if row["parsed"] and row["item_id"] in shelf}


def mixup_night(
    settings: Settings,
    histories: pa.Table,
    generations: pa.Table,
    answered: set[str],
    shelf: Shelf,
    models: ServingModels,
    bought: Mapping[str, set[str]],
) -> dict[str, Ranked]:
    """Return the paper's lists: by the model's answer, else by retrieval on the customer's history."""
    indexes = Indexes(night_title_index(models, shelf, settings), night_id_index(models, shelf, settings))
    rest = histories.filter(~pc.field("user_id").isin(pa.array(sorted(answered), pa.string())))
    return {
        **retrieval_lists(rest, shelf, models, indexes, settings, bought),
        **language_model_lists(generations, shelf, models, indexes, settings, bought),
    }


def versions(models: ServingModels, day: str, ranked: bool) -> dict[str, object]:
    """Return the version columns of lists made by `models` for `day`."""
    return {
        "model_version": models.adapter.version,
        "title_encoder_version": models.title_version.version,
        "item_embeddings_version": models.core_version.version,
        "ranker_version": models.ranker_version.version if ranked and models.ranker_version else None,
        "fitted_until": models.fitted_until or None,
        "model_from_future": models.fitted_until > day,
    }


def previous_lists(warehouse: Warehouse, day: str, category: str) -> pa.Table | None:
    """Return the newest published `recommendations` of `category` before `day`, if any."""
    earlier = [
        d for d in warehouse.days("recommendations")
        if d < day and warehouse.exists("recommendations", date=d, category=category)
    ]  # fmt: skip
    return warehouse.read("recommendations", date=earlier[-1], category=category) if earlier else None


def bought_items(histories: pa.Table) -> dict[str, set[str]]:
    """Return the items each customer bought, by user id."""
    return {
        user: {s["item_id"] for s in steps if s["action"] == "purchase"}
        for user, steps in zip(histories["user_id"].to_pylist(), histories["steps"].to_pylist(), strict=True)
    }
