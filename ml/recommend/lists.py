"""Every active customer's list of one category and day: model, carried, retrieval or popular."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.settings import Settings
from ml.tables import TABLES

if TYPE_CHECKING:
    from ml.recommend.serving import ServingModels, Shelf
    from ml.retrieval import VectorIndex

BATCH_USERS = 4096
Ranked = Sequence[tuple[str, str, float]]
"""A list as (item, part, score), best first."""


@dataclass(frozen=True)
class Indexes:
    """The shelf's items by title and by id; either may be missing where a model knows nothing of the shelf."""

    by_title: VectorIndex
    by_id: VectorIndex | None


@dataclass(frozen=True)
class UserList:
    """One customer's list, how it was made, and since when."""

    user_id: str
    items: Ranked
    source: str
    listed_on: str


def language_model_lists(
    generations: pa.Table, shelf: Shelf, models: ServingModels, indexes: Indexes, settings: Settings,
    bought: Mapping[str, set[str]],
) -> dict[str, Ranked]:  # fmt: skip
    """Return the mixup list of every customer whose answer names an item of the shelf (paper 4.4).

    The id query is the named item's embedding, the title query the written title's; an empty title falls back to the
    named item's own.
    """
    rows = [r for r in generations.to_pylist() if r["parsed"] and r["item_id"] in shelf]
    if not rows:
        return {}
    named = [r["item_id"] for r in rows]
    written = [r["title"] or shelf.titles[r["item_id"]] for r in rows]
    lists = mixup_lists(
        named, written, models, indexes, settings.recommendations.mixup_n, settings.recommendations.k,
        [bought.get(r["user_id"], set()) for r in rows],
    )  # fmt: skip
    return {r["user_id"]: items for r, items in zip(rows, lists, strict=True)}


def mixup_lists(
    named: Sequence[str], written: Sequence[str], models: ServingModels, indexes: Indexes, n: int, k: int,
    excluded: Sequence[set[str]],
) -> list[Ranked]:  # fmt: skip
    """Return mixup lists of named items and written titles; an item CORE does not know still leads its own list."""
    from ml.retrieval import retrieve

    title_queries = models.titles.encode(written)
    if indexes.by_id is None:
        found = retrieve(title_queries, title_queries, indexes.by_title, indexes.by_title, 0, k, None, excluded)
    else:
        id_queries = _item_vectors(named, indexes.by_id)
        found = retrieve(id_queries, title_queries, indexes.by_id, indexes.by_title, n, k, None, excluded)
    known = set(indexes.by_id.ids) if indexes.by_id is not None else set()
    return [
        items if not n or item in known or item in skip else _led_by(item, items, k)
        for item, items, skip in zip(named, found, excluded, strict=True)
    ]


def retrieval_lists(
    histories: pa.Table, shelf: Shelf, models: ServingModels, indexes: Indexes, settings: Settings,
    bought: Mapping[str, set[str]],
) -> dict[str, Ranked]:  # fmt: skip
    """Return lists made without the language model: CORE's vector of the history, then titles like the last item's."""
    from ml.retrieval import retrieve

    k = settings.recommendations.k
    rows = {item: row for row, item in enumerate(models.core.items)}
    users = histories["user_id"].to_pylist()
    items = [[s["item_id"] for s in steps if s["item_id"]] for steps in histories["steps"].to_pylist()]
    usable = [i for i, own in enumerate(items) if own]
    result: dict[str, Ranked] = {}
    for start in range(0, len(usable), BATCH_USERS):
        part = usable[start : start + BATCH_USERS]
        sequences = [np.array([rows[i] for i in items[u] if i in rows], np.int32) for u in part]
        id_queries = np.zeros((len(part), models.core.item_embeddings.shape[1]), np.float32)
        asked = [i for i, s in enumerate(sequences) if len(s)]
        if asked:
            id_queries[asked] = models.core.encode([sequences[i] for i in asked])
        last = [shelf.titles.get(items[u][-1], "") for u in part]
        title_queries = models.titles.encode(last)
        title_queries[[not title for title in last]] = 0
        excluded = [bought.get(users[u], set()) for u in part]
        by_id = indexes.by_id if indexes.by_id is not None else indexes.by_title
        id_queries = id_queries if indexes.by_id is not None else np.zeros_like(title_queries)
        lists = retrieve(id_queries, title_queries, by_id, indexes.by_title, k, k, None, excluded)
        result.update({users[u]: found for u, found in zip(part, lists, strict=True) if found})
    return result


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


def list_batches(
    lists: Iterator[UserList], versions: Mapping[str, Any], carried: pa.Table | None
) -> Iterator[pa.RecordBatch]:
    """Yield the `recommendations` rows of `lists` in batches, then the carried rows as they were."""
    schema = TABLES["recommendations"].schema
    pending: list[UserList] = []
    for one in lists:
        pending.append(one)
        if len(pending) == BATCH_USERS:
            yield _batch(pending, versions, schema)
            pending = []
    if pending:
        yield _batch(pending, versions, schema)
    if carried is not None and carried.num_rows:
        yield from carried.select(schema.names).cast(schema).to_batches()


def _batch(lists: Sequence[UserList], versions: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatch:
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
    return pa.RecordBatch.from_pylist(rows, schema)


def carried_rows(
    previous: pa.Table | None,
    histories: pa.Table,
    shelf: Shelf,
    users: set[str],
    settings: Settings,
    rolled_back: Mapping[str, Collection[str]],
) -> pa.Table | None:
    """Return the rows of the previous table that still hold for some of `users`.

    A list is carried if the language model made it, its customer did nothing in the category since, it has K items,
    each is still on the shelf, and no model that made it was rolled back (`rolled_back`: versions by column). Its
    versions and `listed_on` stay, its source becomes `carried`.
    """
    if previous is None or not previous.num_rows:
        return None
    zone, k = settings.log.zone, settings.recommendations.k
    newest = {
        user: steps[-1]["event_time"].astimezone(zone).date().isoformat()
        for user, steps in zip(histories["user_id"].to_pylist(), histories["steps"].to_pylist(), strict=True)
        if steps and user in users
    }
    made = previous.filter(pc.field("source").isin(["language_model", "carried"]))
    for column, versions in rolled_back.items():
        made = made.filter(~pc.field(column).isin(pa.array(sorted(versions), pa.string())))
    lists: dict[str, list[tuple[str, str]]] = {}
    for row in made.select(["user_id", "item_id", "listed_on"]).to_pylist():
        lists.setdefault(row["user_id"], []).append((row["item_id"], row["listed_on"]))

    def holds(user: str, rows: list[tuple[str, str]]) -> bool:
        unchanged = user in newest and newest[user] <= rows[0][1]
        return unchanged and len(rows) == k and all(item in shelf for item, _ in rows)

    holding = [user for user, rows in lists.items() if holds(user, rows)]
    kept = made.filter(pc.field("user_id").isin(pa.array(holding, pa.string())))
    position = kept.schema.get_field_index("source")
    return kept.set_column(position, "source", pa.array(["carried"] * kept.num_rows, pa.string()))


def _item_vectors(items: Sequence[str], index: VectorIndex) -> np.ndarray:
    known = set(index.ids)
    have = [i for i in items if i in known]
    vectors = dict(zip(have, index.vectors_of(have), strict=True)) if have else {}
    dim = next(iter(vectors.values())).shape[0] if vectors else index.vectors_of([index.ids[0]]).shape[1]
    return np.stack([vectors.get(i, np.zeros(dim, np.float32)) for i in items]).astype(np.float32)


def _led_by(item: str, items: Ranked, k: int) -> Ranked:
    rest = [entry for entry in items if entry[0] != item]
    return [(item, "id", 1.0), *rest][:k]
