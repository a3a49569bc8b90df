"""The `prompts` table: which examples become prompts, and the prompts themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ml.prompts.builder import PromptBuilder
from ml.settings import PromptSettings
from ml.tables import TABLES

_CHUNK = 1000


def sample_examples(
    examples: pa.Table,
    split: Literal["temporal", "leave_one_out"],
    parts: Sequence[str],
    limit: int | None,
    seed: int,
) -> pa.Table:
    """Return at most `limit` eligible examples of `parts` (train, validation, test) of a split; None: all.

    The draw and its order come from a hash of example_id and seed: the same whatever the row order, and a smaller
    sample is the beginning of a larger one.
    """
    chosen = examples.filter(pc.field(f"{split}_split").isin(list(parts)))
    chosen = chosen.filter(chosen["eligible"])
    order = np.argsort(_hashes(chosen["example_id"].to_pylist(), seed), kind="stable")
    return chosen.take(order[:limit])


def build_prompts(
    builder: PromptBuilder,
    examples: pa.Table,
    memory: Mapping[str, Sequence[str]],
    settings: PromptSettings,
    seed: int,
    *,
    split: Literal["temporal", "leave_one_out"] = "temporal",
    variant: Literal["all", "purchases_only"] | None = None,
) -> pa.Table:
    """Return the `prompts` table of `examples` (rows of `training_sequences` with `category`), in their order.

    `memory` has the products of each example_id's query, best first. Of the split's training examples,
    `settings.purchases_only_share`, chosen by a hash of example_id and seed, get the variant purchases_only, if they
    hold a purchase; `variant` sets it for all instead.
    """
    batches = [_prompt_batch(builder, rows, memory, settings, seed, split, variant) for rows in _chunks(examples)]
    return pa.Table.from_batches(batches, TABLES["prompts"].schema)


def _chunks(examples: pa.Table) -> Iterator[list[dict[str, Any]]]:
    with tqdm(total=examples.num_rows, desc="prompts", unit="prompt", disable=None) as bar:
        for start in range(0, examples.num_rows, _CHUNK):
            rows = examples.slice(start, _CHUNK).to_pylist()
            yield rows
            bar.update(len(rows))


def _prompt_batch(
    builder: PromptBuilder,
    rows: list[dict[str, Any]],
    memory: Mapping[str, Sequence[str]],
    settings: PromptSettings,
    seed: int,
    split: str,
    variant: str | None,
) -> pa.RecordBatch:
    """Build a chunk of prompts; items and queries are tokenised together first."""
    steps = [step for row in rows for step in row["steps"]]
    shown = [item for row in rows for item in memory.get(row["example_id"], ())]
    builder.prepare(
        [*(step["item_id"] for step in steps), *shown, *(row["target_item"] for row in rows)],
        [*(step["query"] for step in steps if step["action"] == "search"), *(row["query"] for row in rows)],
    )
    shares = _hashes([row["example_id"] for row in rows], seed, "variant") / 2.0**64
    made = []
    for row, share in zip(rows, shares, strict=True):
        thin = share < settings.purchases_only_share and row[f"{split}_split"] == "train"
        thin = thin and any(step["action"] == "purchase" for step in row["steps"])
        which = variant or ("purchases_only" if thin else "all")
        prompt = builder.build(row["steps"], row["query"], memory.get(row["example_id"], ()), row["target_item"], which)
        made.append(row | vars(prompt) | {"variant": which})
    return pa.RecordBatch.from_pylist(made, TABLES["prompts"].schema)


def _hashes(ids: Sequence[str], seed: int, purpose: str = "sample") -> np.ndarray:
    """64-bit hashes of ids, as uint64."""
    digests = (hashlib.blake2b(f"{purpose}:{seed}:{i}".encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
