"""The models a night reads, and the items it may recommend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from ml.errors import HemlineError
from ml.recommend.fitting import TitleVectors, load_title_vectors
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.model_version import ModelVersion
    from ml.recommend.fusing import Fusion
    from ml.registry import ModelRegistry
    from ml.retrieval import Core, VectorIndex


@dataclass(frozen=True)
class ServingModels:
    """The champions of one model partition, loaded.

    `title_index` is the index of exactly this title encoder, None where none was made yet. `rolled_back` are the
    versions that a person took out of use, by the column of `recommendations` that names them.
    """

    scope: str
    adapter: ModelVersion
    title_version: ModelVersion
    core_version: ModelVersion
    titles: TitleVectors
    title_index: VectorIndex | None
    id_index: VectorIndex | None
    core: Core
    ranker_version: ModelVersion | None = None
    fusion: Fusion | None = None
    rolled_back: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def fitted_until(self) -> str:
        """Newest day any of the models was fitted on."""
        versions = (self.adapter, self.title_version, self.core_version, self.ranker_version)
        return max(v.fitted_until or "" for v in versions if v is not None)


VERSION_COLUMNS = {
    "adapter": "model_version",
    "title_encoder": "title_encoder_version",
    "item_embeddings": "item_embeddings_version",
    "ranker": "ranker_version",
}
"""Kinds of models, and the column of `recommendations` that names the version a list was made by."""


def load_serving_models(registry: ModelRegistry, scope: str, adapter: str | None = None) -> ServingModels:
    """Return the champions of `scope`; raises HemlineError naming the first that is missing.

    `adapter`: the version that wrote tonight's answers, where it may no longer be the champion. Without a ranker, lists
    are joined by the mixup.
    """
    from ml.champions import index_of, rolled_back_versions
    from ml.recommend.fusing import Fusion
    from ml.retrieval import Core, VectorIndex

    kinds = ("adapter", "title_encoder", "item_embeddings")
    found = {kind: require_champion(registry, kind, scope) for kind in kinds}
    title_index = index_of(registry, "title_index", found["title_encoder"])
    id_index = index_of(registry, "id_index", found["item_embeddings"])
    ranker = registry.champion("ranker", scope)
    return ServingModels(
        scope,
        registry.version("adapter", scope, adapter) if adapter else found["adapter"],
        found["title_encoder"],
        found["item_embeddings"],
        load_title_vectors(found["title_encoder"].folder),
        None if title_index is None else VectorIndex.load(title_index.folder),
        None if id_index is None else VectorIndex.load(id_index.folder),
        Core.load(found["item_embeddings"].folder),
        ranker,
        None if ranker is None else Fusion.load(ranker.folder),
        {column: frozenset(rolled_back_versions(registry, kind, scope)) for kind, column in VERSION_COLUMNS.items()},
    )


def answers_are_read(settings: Settings, registry: ModelRegistry, scope: str) -> bool:
    """Whether tonight's lists of `scope` depend on the language model: not where its ranker found answers useless."""
    from ml.recommend.fusing import Fusion

    champion = registry.champion("ranker", scope) if settings.recommendations.order == "fusion" else None
    return champion is None or Fusion.load(champion.folder).ranker.uses_answers


def require_champion(registry: ModelRegistry, kind: str, scope: str) -> ModelVersion:
    """Return the promoted version; raises HemlineError with what to do if there is none."""
    champion = registry.champion(kind, scope)
    if champion is None:
        raise HemlineError(f"no {kind} is promoted for {scope!r}: run `hemline train` first")
    return champion


@dataclass(frozen=True)
class Shelf:
    """The items of one category that may be recommended on one day, most popular first."""

    items: list[str]
    titles: dict[str, str]

    def __contains__(self, item: str | None) -> bool:
        return item in self.titles


def shelf(settings: Settings, warehouse: Warehouse, day: str, category: str, available: dict[str, list[str]]) -> Shelf:
    """Return the available items of `category`, ordered by purchases in the active window up to `day`, then by id."""
    items = warehouse.read("catalog", ["item_id", "title", "category"])
    items = items.filter(pc.field("category") == category)
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    bought = purchase_counts(warehouse, day, settings.recommendations.active_days)
    ordered = sorted((i for i in available.get(category, []) if i in titles), key=lambda i: (-bought.get(i, 0), i))
    return Shelf(ordered, {i: titles[i] for i in ordered})


def purchase_counts(warehouse: Warehouse, day: str, window_days: int) -> dict[str, int]:
    """Return purchases per item in the `window_days` up to and including `day`."""
    import duckdb

    first = (date.fromisoformat(day) - timedelta(days=window_days - 1)).isoformat()
    files = [str(path) for path in warehouse.files("interactions", days=(first, day))]
    if not files:
        return {}
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT item_id, count(*) FROM read_parquet(?, hive_partitioning=false) "
            "WHERE action = 'purchase' GROUP BY item_id",
            [files],
        ).fetchall()
    return dict(rows)


def night_title_index(models: ServingModels, shelf: Shelf, settings: Settings) -> VectorIndex:
    """Return an index of exactly the shelf's titles; items newer than the champion's index are encoded now."""
    from ml.retrieval import VectorIndex

    vectors = shelf_vectors(models.title_index, shelf.items, lambda missing: models.titles.encode(missing), shelf)
    return VectorIndex.build(shelf.items, vectors, settings.index)


def night_id_index(models: ServingModels, shelf: Shelf, settings: Settings) -> VectorIndex | None:
    """Return an index of the shelf's items that CORE knows, or None if it knows none of them."""
    from ml.retrieval import VectorIndex

    row_of = {item: row for row, item in enumerate(models.core.items)}
    known = [item for item in shelf.items if item in row_of]
    if not known:
        return None
    if models.id_index is not None and set(known) <= set(models.id_index.ids):
        vectors = models.id_index.vectors_of(known)
    else:
        vectors = models.core.item_embeddings[[row_of[item] for item in known]]
    return VectorIndex.build(known, vectors, settings.index)


def shelf_vectors(
    index: VectorIndex | None, items: Sequence[str], encode: Callable[[list[str]], np.ndarray], shelf: Shelf
) -> np.ndarray:
    """Return the title vectors of `items`, from `index` where it has them, else from `encode`."""
    known = set() if index is None else set(index.ids)
    old = [i for i in items if i in known]
    new = [i for i in items if i not in known]
    parts = {}
    if index is not None and old:
        parts.update(zip(old, index.vectors_of(old), strict=True))
    if new:
        parts.update(zip(new, encode([shelf.titles[i] for i in new]), strict=True))
    return np.stack([parts[i] for i in items]).astype(np.float32)
