"""How long CORE trains: seconds per epoch, and a sampled-softmax step as the catalogue grows.

    python -m benchmarks.core_training [--users 20000] [--items 10000] [--threads 1]

The sequences are synthetic: each user walks among the items of a few styles, popular ones more often.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from ml.retrieval.core_training import CoreTrainer, batches, windows
from ml.settings import ItemEmbeddingSettings


def sequences(users: int, items: int, mean_length: int, seed: int = 0) -> list[np.ndarray]:
    """Return item index sequences of 2 to 4 * `mean_length` items, `mean_length` on average."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.geometric(1 / (mean_length - 1), users) + 1, 2, 4 * mean_length)
    styles = 100
    result = []
    for length in lengths:
        style = generator.integers(styles, size=2)[generator.integers(2, size=length)]
        place = (generator.random(length) ** 2 * (items // styles)).astype(np.int64)
        result.append((style * (items // styles) + place).astype(np.int32))
    return result


def measure(users: int, items: int, encoder: str, settings: dict[str, object], steps: int | None) -> dict[str, float]:
    """Train one epoch, or `steps` steps after two for warming up; return counts and times."""
    config = ItemEmbeddingSettings.model_validate({"encoder": encoder, **settings})
    parts = [w for s in sequences(users, items, 12) for w in windows(s, config.max_length)]
    targets = np.concatenate([w.items[w.known + 1 :] for w in parts]).astype(np.int64)
    trainer = CoreTrainer(items, targets, config, torch.device("cpu"))
    trainer.network.train()
    times = []
    for batch in batches(parts, config.batch_size, trainer.generator):
        begin = time.perf_counter()
        trainer.step(batch)
        times.append(time.perf_counter() - begin)
        if steps is not None and len(times) == steps + 2:
            break
    return {"targets": len(targets), "epoch": sum(times), "step": float(np.median(times[2:]))}


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for encoder in ("transformer", "average"):
        got = measure(options.users, options.items, encoder, {"full_softmax_below": options.items + 1}, None)
        print(
            f"{encoder}, full softmax: {options.users:,} users, {options.items:,} items, {got['targets']:,.0f} targets:"
            f" {got['epoch']:.1f} s per epoch, {1000 * got['step']:.0f} ms per step, {options.threads} thread(s)"
        )
    for items in (50_000, 1_000_000):
        got = measure(4_000, items, "transformer", {"sampled_negatives": 4096}, 12)
        print(f"transformer, sampled softmax: {items:,} items: {1000 * got['step']:.0f} ms per step")


if __name__ == "__main__":
    main()
