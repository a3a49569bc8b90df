"""The other sides of `benchmarks.sequential_training`: RecBole's and RePlay's models, each in its own environment."""

# pyright: reportMissingImports=false

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sequential_data import BATCH, DIM, DROPOUT, HEADS, LAYERS, LEARNING_RATE, ndcg, read_data

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


def run_replay(model: str, folder: Path, epochs: int, max_length: int) -> dict[str, float]:
    """Fit RePlay's SASRec; return seconds an epoch and NDCG@10. Runs in RePlay's environment."""
    import lightning
    import pandas as pd
    from replay.data import FeatureHint, FeatureType
    from replay.data.nn import PandasSequentialDataset, TensorFeatureInfo, TensorSchema
    from replay.models.nn.optimizer_utils import FatOptimizerFactory
    from replay.models.nn.sequential import SasRec
    from replay.models.nn.sequential.sasrec import SasRecTrainingDataset
    from torch.utils.data import DataLoader

    assert model == "sasrec"
    histories, targets, items = read_data(folder)
    known = np.unique(np.concatenate(histories))
    place = np.full(items, -1)
    place[known] = np.arange(len(known))
    schema = TensorSchema(
        TensorFeatureInfo(
            "item_id", FeatureType.CATEGORICAL, is_seq=True, feature_hint=FeatureHint.ITEM_ID, cardinality=len(known),
            padding_value=len(known), embedding_dim=DIM,
        )
    )  # fmt: skip
    # One item alone is nothing to predict.
    kept = [place[h].tolist() for h in histories if len(h) > 1]
    rows = pd.DataFrame({"user_id": np.arange(len(kept)), "item_id": kept})
    sequences = PandasSequentialDataset(schema, "user_id", "item_id", rows)
    torch.manual_seed(0)
    network = SasRec(
        schema, block_count=LAYERS, head_count=HEADS, hidden_size=DIM, max_seq_len=max_length, dropout_rate=DROPOUT,
        loss_type="CE", optimizer_factory=FatOptimizerFactory(learning_rate=LEARNING_RATE),
    )  # fmt: skip
    training = DataLoader(SasRecTrainingDataset(sequences, max_length), batch_size=BATCH, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    begin, busy = time.perf_counter(), time.process_time()
    trainer.fit(network, training)
    took = {"seconds": (time.perf_counter() - begin) / epochs, "processor": (time.process_time() - busy) / epochs}
    network.eval()

    @torch.no_grad()
    def scores(some: list[np.ndarray]) -> np.ndarray:
        padded = np.full((len(some), max_length), len(known))
        for row, history in zip(padded, some, strict=True):
            newest = place[history[-max_length:]]
            row[max_length - len(newest) :] = newest
        tokens = torch.from_numpy(padded)
        asked = {"feature_tensor": {"item_id": tokens}, "padding_mask": tokens != len(known)}
        found = np.full((len(some), items), -np.inf, dtype=np.float32)
        found[:, known] = network.predict(asked).numpy()
        return found

    return {**took, "ndcg": ndcg(scores, histories, targets)}
