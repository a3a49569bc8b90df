"""The models a night reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ml.fits.fitting import TitleVectors, load_title_vectors
from ml.night.shelf import Shelf
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.fits.fusing import Fusion
    from ml.models.registry import ModelRegistry
    from ml.models.version import ModelVersion
    from ml.retrieval import Core, VectorIndex


VERSION_COLUMNS = {
    "adapter": "model_version",
    "title_encoder": "title_encoder_version",
    "item_embeddings": "item_embeddings_version",
    "ranker": "ranker_version",
}
"""Kinds of models, and the column of `recommendations` that names the version a list was made by."""


@dataclass(frozen=True)
class ServingVersions:
    """The versions a night's lists are made by, each with the folder of its files.

    `title_index` is the index of exactly this title encoder, None where none was made yet. Without a ranker, lists are
    joined by the mixup. `rolled_back` are the versions that a person took out of use, by the column of
    `recommendations` that names them.
    """

    scope: str
    adapter: ModelVersion
    titles: ModelVersion
    core: ModelVersion
    title_index: ModelVersion | None
    id_index: ModelVersion | None
    ranker: ModelVersion | None
    rolled_back: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def columns(self, day: str, ranked: bool) -> dict[str, object]:
        """Return the version columns of lists made for `day`; `ranked`: in the ranker's order."""
        made_by = (self.adapter, self.titles, self.core, self.ranker)
        fitted_until = max(version.fitted_until or "" for version in made_by if version is not None)
        return {
            "model_version": self.adapter.version,
            "title_encoder_version": self.titles.version,
            "item_embeddings_version": self.core.version,
            "ranker_version": self.ranker.version if ranked and self.ranker else None,
            "fitted_until": fitted_until or None,
            "model_from_future": fitted_until > day,
        }

    def fusion(self) -> Fusion | None:
        """Return the ranker and what it was fitted with, read from its folder; None where there is none."""
        from ml.fits.fusing import Fusion

        return None if self.ranker is None else Fusion.load(self.ranker.folder)

    def load(self) -> ServingModels:
        """Return the other models, read from their folders: here, or on any machine that sees them."""
        from ml.retrieval import Core, VectorIndex

        return ServingModels(
            load_title_vectors(self.titles.folder),
            Core.load(self.core.folder),
            None if self.title_index is None else VectorIndex.load(self.title_index.folder),
            None if self.id_index is None else VectorIndex.load(self.id_index.folder),
        )


@dataclass(frozen=True)
class ServingModels:
    """The models of `ServingVersions` that encode and retrieve, loaded."""

    titles: TitleVectors
    core: Core
    title_index: VectorIndex | None
    id_index: VectorIndex | None


def serving_versions(registry: ModelRegistry, scope: str, adapter: str | None = None) -> ServingVersions:
    """Return the champions of `scope`; raises HemlineError naming the first that is missing.

    `adapter`: the version that wrote tonight's answers, where it may no longer be the champion.
    """
    from ml.models.champions import index_of, require_champion, rolled_back_versions

    adapter_now, titles, core = (
        require_champion(registry, kind, scope) for kind in ("adapter", "title_encoder", "item_embeddings")
    )
    return ServingVersions(
        scope,
        registry.version("adapter", scope, adapter) if adapter else adapter_now,
        titles,
        core,
        index_of(registry, "title_index", titles),
        index_of(registry, "id_index", core),
        registry.champion("ranker", scope),
        {column: frozenset(rolled_back_versions(registry, kind, scope)) for kind, column in VERSION_COLUMNS.items()},
    )


def answers_are_read(settings: Settings, registry: ModelRegistry, scope: str) -> bool:
    """Whether tonight's lists of `scope` depend on the language model: not where its ranker found answers useless."""
    from ml.fits.fusing import Fusion

    champion = registry.champion("ranker", scope) if settings.recommendations.order == "fusion" else None
    return champion is None or Fusion.load(champion.folder).ranker.uses_answers


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
