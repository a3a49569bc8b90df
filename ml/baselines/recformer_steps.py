"""Rows of `training_sequences` as Recformer's histories: items and, if wanted, searches in their place."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from ml.baselines.recformer_text import RecformerText
from ml.sequences.arrays import is_one_of, positions_in
from ml.sequences.items import newest_rows

Split = Literal["temporal", "leave_one_out"]


def row_histories(examples: pa.Table, text: RecformerText, with_queries: bool) -> list[np.ndarray]:
    """Return the history of each row (see `RecformerText`), from its steps alone: what came before the purchase.

    Items that the catalogue lacks have no text and are left out; searches are, too, unless `with_queries`.
    """
    histories: list[np.ndarray] = []
    for batch in examples.select(["steps"]).to_batches():
        flat = batch["steps"].flatten()
        codes = positions_in(flat.field("item_id"), text.items).astype(np.int64)
        kept = codes >= 0
        if with_queries:
            searches = np.flatnonzero(is_one_of(flat.field("action"), "search") & flat.field("query").is_valid())
            codes[searches] = [-1 - n for n in text.query_numbers(flat.field("query").take(searches).to_pylist())]
            kept[searches] = True
        rows = np.repeat(np.arange(len(batch)), batch["steps"].value_lengths().to_numpy())
        ends = np.cumsum(np.bincount(rows[kept], minlength=len(batch)))
        histories += np.split(codes[kept], ends)[:-1]  # a batch may be empty: a filter leaves such
    return histories


def row_targets(examples: pa.Table, text: RecformerText) -> np.ndarray:
    """Return the index of each row's target in the catalogue, int64 [n]; -1 where it lacks the item."""
    return positions_in(examples["target_item"], text.items).astype(np.int64)


def customer_sequences(examples: pa.Table, split: Split, text: RecformerText, with_queries: bool) -> list[np.ndarray]:
    """Return one sequence a customer: the steps and target of the newest training row of `split`.

    As `ml.sequences.item_sequences` has it: targets bought at the same instant are appended too, and whether a row is
    eligible does not matter. Sequences without two items, of which the second could be a target, are left out.
    """
    rows, customers = newest_rows(examples, np.flatnonzero(is_one_of(examples[f"{split}_split"], "train")))
    if not len(rows):
        return []
    chosen = examples.select(["steps", "target_item"]).take(pa.array(rows))
    targets = row_targets(chosen, text)
    last = np.flatnonzero(np.diff(customers, append=-1))
    histories = row_histories(chosen.take(pa.array(last)), text, with_queries)
    baskets = np.split(targets, last[:-1] + 1)
    sequences = [np.concatenate([h, b[b >= 0]]) for h, b in zip(histories, baskets, strict=True)]
    return [sequence for sequence in sequences if (sequence >= 0).sum() > 1]


def draw_targets(
    sequences: list[np.ndarray], generator: np.random.Generator, newest_half: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw one item of each sequence to predict; return the steps before it, and the items' indices, int64 [n].

    Any item with an item before it may be drawn, each alike, so that over the epochs every prefix is seen; with
    `newest_half` only those of the newest half of the items. The authors' code draws so in fine-tuning and in
    pre-training; the paper does not say.
    """
    histories, targets = [], []
    for sequence in sequences:
        places = np.flatnonzero(sequence >= 0)
        first = max(1, (len(places) - 1) // 2) if newest_half else 1
        place = places[generator.integers(first, len(places))]
        histories.append(sequence[:place])
        targets.append(sequence[place])
    return histories, np.array(targets, dtype=np.int64)
