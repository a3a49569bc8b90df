"""Training examples of several categories, read from the warehouse and cut by split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from ml.warehouse import Warehouse

Split = Literal["temporal", "leave_one_out"]


def read_examples(warehouse: Warehouse, categories: Sequence[str]) -> pa.Table:
    """Return the `training_sequences` rows of `categories` with a `category` column; none of them must be missing."""
    parts = []
    for category in categories:
        rows = warehouse.read("training_sequences", category=category)
        parts.append(rows.append_column("category", pa.array([category] * rows.num_rows, pa.string())))
    return pa.concat_tables(parts)


def part_of(examples: pa.Table, split: Split, *parts: str) -> pa.Table:
    """Return the rows whose `split` is one of `parts`."""
    return examples.filter(pc.field(f"{split}_split").isin(list(parts)))


def train_under_both_splits(examples: pa.Table) -> pa.Table:
    """Return the rows that are training rows in the temporal and in the leave-one-out split.

    A language model fitted on them has seen no target of either split's validation or test part, so that one adapter
    serves both evaluations and the nightly tables.
    """
    return part_of(part_of(examples, "temporal", "train"), "leave_one_out", "train")
