"""CORE as a reference: `ml.retrieval`'s item model under the evaluation's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ml.evaluation.protocol import check_fitted
from ml.sequences import ItemSequences
from ml.settings import ItemEmbeddingSettings

if TYPE_CHECKING:
    from ml.models.run import TrackedRun
    from ml.retrieval import Core


class CoreSystem:
    """Scores items by the cosine of their vector with the history's session vector.

    It is fitted on the items that occur in training alone; the others score -inf, and so does everything for a
    history without a known item.
    """

    name = "core"

    def __init__(
        self, settings: ItemEmbeddingSettings, core: Core | None = None, run: TrackedRun | None = None
    ) -> None:
        """`core`: a model that is fitted already, used as it is, so that `fit` need not be called."""
        self.settings = settings
        self.core = core
        self.run = run
        self.items: list[str] = list(core.items) if core is not None else []

    def fit(self, data: ItemSequences, validation: ItemSequences | None = None) -> None:
        """Train CORE on `data`; `validation` stops the training."""
        from ml.retrieval import train_core

        self.core = train_core(seen_only(data), validation, self.settings, self.run)
        self.items = list(self.core.items)

    def scores(self, histories: Sequence[np.ndarray], ages: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [n, items]."""
        check_fitted(self.name, self.items)
        assert self.core is not None
        scores = self.core.encode(list(histories)) @ self.core.item_embeddings.T
        scores[[n for n, history in enumerate(histories) if not len(history)]] = -np.inf
        return scores


def seen_only(data: ItemSequences) -> ItemSequences:
    """Return the same sequences over the items that occur in them."""
    seen = np.unique(np.concatenate(data.sequences)) if data.sequences else np.empty(0, dtype=np.int64)
    place = np.full(len(data.items), -1, dtype=np.int32)
    place[seen] = np.arange(len(seen), dtype=np.int32)
    return ItemSequences([data.items[i] for i in seen], [place[s] for s in data.sequences], data.times)
