"""Fits of the retrieval models from warehouse tables: what each is fitted on, and where its files are written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.fits.examples import Split, part_of, read_examples
from ml.sequences import item_sequences
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.models.run import TrackedRun
    from ml.retrieval import Core, VectorIndex


class TitleVectors(Protocol):
    """Anything that turns titles into unit vectors: the LSTM, or a text encoder in its place."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 unit vectors, one row per text."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A fitted model's files, what kind it is, how much it was fitted on, and the newest day of that."""

    folder: Path
    kind: str
    examples: int
    fitted_until: str


def fresh(folder: Path) -> Path:
    """Return `folder`, emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def fit_title_encoder(
    settings: Settings,
    warehouse: Warehouse,
    categories: Sequence[str],
    folder: Path,
    run: TrackedRun | None = None,
    split: Split = "temporal",
) -> Fitted:
    """Fit the LSTM title encoder on a split's training pairs and save it.

    A log without queries has no pairs: then the memory's text encoder takes its place (kind `text_encoder`).
    """
    from ml.retrieval import NothingToTrain, train_title_encoder

    pairs = pa.concat_tables([warehouse.read("query_title_pairs", category=c) for c in categories])
    train = part_of(pairs, split, "train")
    known = titles(warehouse, categories)
    try:
        encoder = train_title_encoder(train, part_of(pairs, split, "validation"), known, settings.title_encoder, run)
    except NothingToTrain:
        (fresh(folder) / "text_encoder.json").write_text(json.dumps({"encoder": settings.memory.encoder}))
        return Fitted(folder, "text_encoder", 0, "")
    encoder.save(fresh(folder))
    return Fitted(folder, "lstm", train.num_rows, str(max(train["date"].to_pylist())))


def load_title_vectors(folder: Path, batch_size: int = 256) -> TitleVectors:
    """Return the title encoder saved in `folder`: the LSTM, or the text encoder named there."""
    from ml.memory import load_text_encoder
    from ml.retrieval import TitleEncoder

    named = folder / "text_encoder.json"
    if named.exists():
        return load_text_encoder(json.loads(named.read_text())["encoder"], batch_size)
    return TitleEncoder.load(folder)


def titles(warehouse: Warehouse, categories: Sequence[str]) -> list[str]:
    """Return the distinct catalogue titles of `categories`, sorted."""
    items = warehouse.read("catalog", ["title", "category"])
    chosen = items.filter(pc.field("category").isin(list(categories)))
    return sorted(set(chosen["title"].to_pylist()))


def build_title_index(
    settings: Settings, warehouse: Warehouse, categories: Sequence[str], encoder_folder: Path, folder: Path
) -> tuple[VectorIndex, Path]:
    """Index the title of every item of `categories`; equal titles keep the order of their item ids."""
    from ml.retrieval import VectorIndex

    items = warehouse.read("catalog", ["item_id", "title", "category"])
    items = items.filter(pc.field("category").isin(list(categories))).sort_by("item_id")
    vectors = load_title_vectors(encoder_folder).encode(items["title"].to_pylist())
    index = VectorIndex.build(items["item_id"].to_pylist(), vectors, settings.index)
    index.save(fresh(folder))
    return index, folder


def fit_item_embeddings(
    settings: Settings, warehouse: Warehouse, categories: Sequence[str], folder: Path, run: TrackedRun | None = None
) -> Fitted:
    """Fit CORE on the temporal split's training sequences, stop on its validation part, and save it."""
    from ml.retrieval import train_core

    examples = read_examples(warehouse, categories)
    data = item_sequences(examples, "temporal", "train")
    held_out = part_of(examples, "temporal", "validation")  # each row holds its own steps: no other row is needed
    validation = item_sequences(held_out, "temporal", "train_validation", data.items)
    core: Core = train_core(data, validation, settings.item_embeddings, run)
    core.save(fresh(folder))
    newest = max(part_of(examples, "temporal", "train", "validation")["target_date"].to_pylist())
    return Fitted(folder, f"core_{settings.item_embeddings.encoder}", len(data.items), str(newest))


def build_id_index(settings: Settings, core_folder: Path, folder: Path) -> tuple[VectorIndex, Path]:
    """Index CORE's item table."""
    from ml.retrieval import Core, VectorIndex

    core = Core.load(core_folder)
    index = VectorIndex.build(core.items, core.item_embeddings, settings.index)
    index.save(fresh(folder))
    return index, folder
