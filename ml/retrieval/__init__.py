"""Item and title embeddings, the indexes over them, and the mixup that makes one list of two (paper 4.4).

`core_*` is the item model, `title_*` the text model, `index` the nearest-neighbour search, `mixup` the ranking. The
names below load torch or faiss when they are first used, so importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ml.retrieval.errors import NothingToTrain
from ml.retrieval.mixup import mixup, mixup_rank, retrieve

if TYPE_CHECKING:
    from ml.retrieval.core_model import Core
    from ml.retrieval.core_training import train_core
    from ml.retrieval.index import VectorIndex
    from ml.retrieval.title_encoder import TitleEncoder
    from ml.retrieval.title_training import train_title_encoder

_LAZY = {
    "Core": "core_model",
    "TitleEncoder": "title_encoder",
    "VectorIndex": "index",
    "train_core": "core_training",
    "train_title_encoder": "title_training",
}

__all__ = [
    "Core",
    "NothingToTrain",
    "TitleEncoder",
    "VectorIndex",
    "mixup",
    "mixup_rank",
    "retrieve",
    "train_core",
    "train_title_encoder",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
