"""How long an epoch of the sequential models takes, and what it buys: seconds and NDCG@10 on the same held-out items.

    python -m benchmarks.sequential_training [--users 20000] [--items 10000] [--threads 1] [--epochs 1]
        [--max-length 50] [--models sasrec core] [--recbole-python PATH]

PATH is the interpreter of another virtual environment with torch and recbole 1.2.1 (what that lacks, pip names); its
models of the same names then learn the same sequences with the same sizes, dropout, learning rate and targets a step.
Every model runs in a process of its own, with this process's environment (allocator settings included) and the same
threads. Each sequence's last item is held out and ranked among all items of training, ties against the model. Seconds
are of training alone, by the clock and of the processor (where other work runs too, the second says more); ours
include setting up, RecBole's do not.

Speed is told by one epoch at full size; that ours are the models they are named after, by a smaller shop that both
sides learn to the end: `--users 1200 --items 600 --max-length 20 --epochs 20`.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

OURS = ("sasrec", "sasrec-bfloat16", "core", "gru4rec", "nextitnet", "bert4rec")
DIM, LAYERS, HEADS, DROPOUT, LEARNING_RATE, BATCH = 64, 2, 2, 0.2, 1e-3, 256
_ATTENTION = {"n_layers": LAYERS, "n_heads": HEADS, "hidden_dropout_prob": DROPOUT, "attn_dropout_prob": DROPOUT}
RECBOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "sasrec": ("SASRec", {**_ATTENTION, "hidden_size": DIM, "inner_size": DIM, "hidden_act": "relu"}),
    "core": ("CORE", {**_ATTENTION, "embedding_size": DIM, "inner_size": 4 * DIM, "sess_dropout": DROPOUT,
                      "item_dropout": DROPOUT, "temperature": 0.07}),
    "gru4rec": ("GRU4Rec", {"embedding_size": DIM, "hidden_size": DIM, "num_layers": 1, "dropout_prob": DROPOUT}),
    "nextitnet": ("NextItNet", {"embedding_size": DIM, "kernel_size": 3, "block_num": 1, "dilations": [1, 4]}),
    "bert4rec": ("BERT4Rec", {**_ATTENTION, "hidden_size": DIM, "inner_size": 4 * DIM, "mask_ratio": 0.2}),
}  # fmt: skip
"""RecBole's class and settings of each of our models: the same sizes under its names."""


def write_data(folder: Path, users: int, items: int) -> None:
    """Write the sequences of `benchmarks.core_training`, those of three items and more, with their item ids."""
    from benchmarks.core_training import sequences

    kept = [s for s in sequences(users, items, 12) if len(s) > 2]
    np.savez(folder / "data.npz", flat=np.concatenate(kept), lengths=[len(s) for s in kept], items=items)


def read_data(folder: Path) -> tuple[list[np.ndarray], np.ndarray, int]:
    """Return training sequences, the held-out item of each, and the number of items."""
    with np.load(folder / "data.npz") as stored:
        whole = np.split(stored["flat"], np.cumsum(stored["lengths"])[:-1])
        return [s[:-1] for s in whole], np.array([s[-1] for s in whole]), int(stored["items"])


def ndcg(scores: Callable[[list[np.ndarray]], np.ndarray], histories: list[np.ndarray], targets: np.ndarray) -> float:
    """Return the mean NDCG@10; `scores` gives float [n, items] of histories, -inf for items not in training."""
    gains = []
    for start in range(0, len(histories), 500):
        found, wanted = scores(histories[start : start + 500]), targets[start : start + 500]
        own = found[np.arange(len(wanted)), wanted]
        rank = np.where(np.isinf(own), np.inf, (found >= own[:, None]).sum(axis=1))
        gains.append(np.where(rank <= 10, 1 / np.log2(rank + 1), 0))
    return float(np.concatenate(gains).mean())


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


def run_recbole(model: str, folder: Path, epochs: int, max_length: int) -> dict[str, float]:
    """Fit RecBole's model of that name; return seconds an epoch and NDCG@10. Runs in RecBole's environment."""
    for name, kind in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "int": int}.items():
        if name not in np.__dict__:
            setattr(np, name, kind)
    sys.argv = sys.argv[:1]  # RecBole would read it
    load = torch.load
    torch.load = lambda *args, **options: load(*args, **{**options, "weights_only": False})
    # Not recbole.quick_start, which wants the tuners' packages.
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.data.interaction import Interaction
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    histories, targets, items = read_data(folder)
    inter = folder / "generated" / "generated.inter"
    inter.parent.mkdir(exist_ok=True)
    with inter.open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, history in enumerate(histories):
            file.writelines(f"u{user}\t{item}\t{time}\n" for time, item in enumerate(history))
    predicted = sum(len(h) - 1 for h in histories)
    name, own = RECBOLE[model]
    config = Config(
        model=name,
        dataset="generated",
        config_dict={
            "data_path": str(folder), "checkpoint_dir": str(folder), "use_gpu": False, "show_progress": False,
            **own, "learning_rate": LEARNING_RATE,
            "MAX_ITEM_LIST_LENGTH": max_length, "loss_type": "CE", "train_neg_sample_args": None, "seed": 0,
            "train_batch_size": BATCH * predicted // len(histories), "epochs": epochs, "state": "WARNING",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            # All of what it is given is for training; the held-out items are ranked below.
            "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user", "mode": "full"},
        },
    )  # fmt: skip
    init_seed(0, True)
    dataset = create_dataset(config)
    train_data, _, _ = data_preparation(config, dataset)
    assert len(train_data.dataset) == predicted, (len(train_data.dataset), predicted)
    network = get_model(name)(config, train_data.dataset)
    trainer = Trainer(config, network)
    begin, busy = time.perf_counter(), time.process_time()
    for epoch in range(epochs):
        trainer._train_epoch(train_data, epoch, show_progress=False)
    took = {"seconds": (time.perf_counter() - begin) / epochs, "processor": (time.process_time() - busy) / epochs}
    network.eval()
    known = np.unique(np.concatenate(histories))
    ids = np.zeros(items, dtype=np.int64)
    ids[known] = dataset.token2id("item_id", known.astype(str))

    @torch.no_grad()
    def scores(some: list[np.ndarray]) -> np.ndarray:
        newest = [ids[h[-max_length:]] for h in some]
        padded = np.zeros((len(some), max_length), dtype=np.int64)
        for row, history in zip(padded, newest, strict=True):
            row[: len(history)] = history
        asked = {"item_id_list": torch.from_numpy(padded), "item_length": torch.tensor([len(h) for h in newest])}
        found = np.full((len(some), items), -np.inf, dtype=np.float32)
        found[:, known] = network.full_sort_predict(Interaction(asked)).numpy()[:, ids[known]]
        return found

    return {**took, "ndcg": ndcg(scores, histories, targets)}


def in_child(python: str, model: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run one model in a process of its own, and return what it measured."""
    root = str(Path(__file__).parents[1])
    command = [python, "-W", "ignore", str(Path(__file__).resolve()), "--child", model, "--folder", str(folder)]
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
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        name = options.child.removeprefix("recbole-")
        run = run_ours if options.child == name else run_recbole
        found = run(name, options.folder, options.epochs, options.max_length)
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
                runs.append((options.recbole_python, f"recbole-{model}"))
        for python, model in runs:
            found = in_child(python, model, folder, options)
            print(f"{model:18}{found['seconds']:12.2f}{found['processor']:10.2f}{found['ndcg']:10.4f}", flush=True)


if __name__ == "__main__":
    main()
