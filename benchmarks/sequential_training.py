"""How long an epoch of the sequential models takes, and what it buys: seconds and NDCG@10 on the same held-out items.

    python -m benchmarks.sequential_training [--users 20000] [--items 10000] [--threads 1] [--epochs 1]
        [--max-length 50] [--models sasrec core] [--recbole-python PATH] [--replay-python PATH]

PATH is the interpreter of another virtual environment with torch and recbole 1.2.1 (what that lacks, pip names), or
with torch and replay-rec[torch] 0.22.0; their models of the same names then learn the same sequences with the same
sizes, dropout, learning rate and targets a step. Every model runs in a process of its own, with this process's
environment (allocator settings included) and the same threads. Each sequence's last item is held out and ranked among
all items of training, ties against the model. Seconds are of training alone, by the clock and of the processor (where
other work runs too, the second says more); ours and RePlay's include setting up, RecBole's do not.

Speed is told by one epoch at full size; that ours are the models they are named after, by a smaller shop that both
sides learn to the end: `--users 1200 --items 600 --max-length 20 --epochs 20`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sequential_data import (
    BATCH,
    DIM,
    DROPOUT,
    HEADS,
    LAYERS,
    LEARNING_RATE,
    ndcg,
    read_data,
    write_data,
)
from benchmarks.sequential_others import RECBOLE, run_recbole, run_replay

OURS = ("sasrec", "sasrec-bfloat16", "core", "gru4rec", "nextitnet", "bert4rec")
REPLAY = ("sasrec",)


def run_ours(model: str, folder: Path, epochs: int, max_length: int) -> dict[str, float]:
    """Fit one of `OURS`; return seconds an epoch and NDCG@10."""
    from ml.baselines import baseline
    from ml.baselines.settings import BaselineSettings
    from ml.evaluation import CoreSystem
    from ml.sequences import ItemSequences
    from ml.settings import ItemEmbeddingSettings

    histories, targets, items = read_data(folder)
    data = ItemSequences(
        [f"{i:09d}" for i in range(items)], histories, [np.arange(len(h), dtype=float) for h in histories]
    )
    common: dict[str, Any] = {
        "dim": DIM, "layers": LAYERS, "heads": HEADS, "dropout": DROPOUT, "learning_rate": LEARNING_RATE,
        "max_length": max_length, "batch_size": BATCH, "epochs": epochs, "full_softmax_below": items + 1,
    }  # fmt: skip
    name, _, logits = model.partition("-")
    if name == "core":
        system: Any = CoreSystem(ItemEmbeddingSettings(**common))
    else:
        system = baseline(name, BaselineSettings(**common, logits="bfloat16" if logits else "float32"))
    begin, busy = time.perf_counter(), time.process_time()
    system.fit(data)
    took = {"seconds": (time.perf_counter() - begin) / epochs, "processor": (time.process_time() - busy) / epochs}
    known = np.array([int(item) for item in system.items])
    place = np.full(items, -1)
    place[known] = np.arange(len(known))

    def scores(some: list[np.ndarray]) -> np.ndarray:
        found = np.full((len(some), items), -np.inf, dtype=np.float32)
        found[:, known] = system.scores([place[h] for h in some], [np.zeros(len(h)) for h in some])
        return found

    return {**took, "ndcg": ndcg(scores, histories, targets)}


def in_child(python: str, model: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run one model in a process of its own, and return what it measured."""
    root = str(Path(__file__).parents[1])
    command = [
        python,
        "-W",
        "ignore",
        "-m",
        "benchmarks.sequential_training",
        "--child",
        model,
        "--folder",
        str(folder),
    ]
    command += ["--threads", str(options.threads), "--epochs", str(options.epochs)]
    command += ["--max-length", str(options.max_length)]
    threads = str(options.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": root}
    subprocess.run(command, check=True, env=environment, cwd=folder)
    return json.loads((folder / f"{model}.json").read_text())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=50, help="newest items a model sees")
    parser.add_argument("--models", nargs="*", choices=OURS, default=list(OURS), help="default: all")
    parser.add_argument("--recbole-python", help="interpreter of an environment with recbole 1.2.1")
    parser.add_argument("--replay-python", help="interpreter of an environment with replay-rec 0.22.0")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        sides = {"recbole": run_recbole, "replay": run_replay}
        side, _, name = options.child.partition(":")
        run = sides[side] if name else run_ours
        found = run(name or side, options.folder, options.epochs, options.max_length)
        (options.folder / f"{options.child}.json").write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, options.users, options.items)
        histories, _, _ = read_data(folder)
        print(
            f"{len(histories):,} sequences, {options.items:,} items, {sum(len(h) - 1 for h in histories):,} targets, "
            f"{options.epochs} epoch(s), {options.threads} thread(s)\n"
            f"{'model':18}{'s per epoch':>12}{'processor':>10}{'NDCG@10':>10}"
        )
        runs = []
        for model in options.models:
            runs.append((sys.executable, model))
            if options.recbole_python and model in RECBOLE:
                runs.append((options.recbole_python, f"recbole:{model}"))
            if options.replay_python and model in REPLAY:
                runs.append((options.replay_python, f"replay:{model}"))
        for python, model in runs:
            found = in_child(python, model, folder, options)
            print(f"{model:18}{found['seconds']:12.2f}{found['processor']:10.2f}{found['ndcg']:10.4f}", flush=True)


if __name__ == "__main__":
    main()
