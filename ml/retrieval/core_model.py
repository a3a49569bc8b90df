"""CORE: a session is a weighted sum of item embeddings, so sessions and items share one space.

Hou, Hu, Zhang & Zhao, "CORE: Simple and Effective Session-based Recommendation within Consistent Representation
Space", SIGIR 2022. Here: the network, and the trained model as others use it. Losses are in `core_loss`, the training
loop in `core_training`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from ml.errors import BadInputError
from ml.retrieval.files import load_weights, read_description

FORMAT = "hemline-core-1"


class CoreNetwork(nn.Module):
    """Item table and representation-consistent encoder (CORE 3.2).

    One forward pass gives the session vector of *every* prefix. The weighting transformer attends to the left only
    and numbers positions from the start, as the authors' code does; so an item's weight logit is the same in every
    prefix that holds it, a prefix's weights are the softmax over its own logits, and the result equals running the
    original once per prefix. Sequences longer than `max_length` are the exception: see `core_training.windows`.

    The scoring layer starts at zero, which makes an untrained transformer encoder the average encoder.
    """

    def __init__(
        self,
        n_items: int,
        *,
        encoder: str,
        dim: int,
        layers: int,
        heads: int,
        dropout: float,
        max_length: int,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.encoder_name = encoder
        self.max_length = max_length
        self.table = nn.Embedding(n_items, dim, sparse=sparse)
        nn.init.uniform_(self.table.weight, -(dim**-0.5), dim**-0.5)
        self.session_dropout = nn.Dropout(dropout)
        if encoder == "transformer":
            self.positions = nn.Parameter(torch.randn(max_length, dim) * 0.02)
            self.norm = nn.LayerNorm(dim)
            layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, functional.gelu, batch_first=True)
            self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
            self.score = nn.Linear(dim, 1, bias=False)
            nn.init.zeros_(self.score.weight)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Return unit session vectors [batch, length, dim] of all prefixes of `items` [batch, length].

        Sequences are padded on the right; a position never sees what stands to its right, so padding with any item
        changes nothing before it.
        """
        vectors = self.session_dropout(self.table(items))
        if self.encoder_name == "average":
            return functional.normalize(vectors.cumsum(dim=1), dim=-1)
        return functional.normalize(self._prefix_weights(vectors) @ vectors, dim=-1)

    def _prefix_weights(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return weights [batch, prefix, position] that sum to one over each prefix's positions."""
        length = vectors.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=vectors.device).triu(1)
        hidden = self.session_dropout(self.norm(vectors + self.positions[:length]))
        logits = self.score(self.transformer(hidden, mask=future, is_causal=True)).squeeze(-1)
        return logits.unsqueeze(1).masked_fill(future, -torch.inf).softmax(dim=-1)


class Core:
    """A trained CORE model: its vocabulary, unit item vectors, and the encoder of item sequences.

    Attributes:
        items: item ids; an item's index is its place here.
        item_embeddings: float32 [items, dim], unit length.
    """

    def __init__(self, items: Sequence[str], network: CoreNetwork, description: dict[str, Any]) -> None:
        self.items = list(items)
        self.network = network.cpu().eval()
        self._description = description
        self._index: dict[str, int] | None = None
        with torch.no_grad():
            self.item_embeddings: np.ndarray = functional.normalize(network.table.weight, dim=-1).numpy()

    def indices(self, item_ids: Sequence[str]) -> np.ndarray:
        """Return the int32 indices of those `item_ids` that the model knows, in their order."""
        if self._index is None:
            self._index = {item: i for i, item in enumerate(self.items)}
        return np.array([self._index[i] for i in item_ids if i in self._index], dtype=np.int32)

    def encode(self, sequences: Sequence[np.ndarray], batch_size: int = 512) -> np.ndarray:
        """Return float32 [n, dim] unit session vectors of sequences of item indices, oldest first.

        Only the newest `max_length` items count. An empty sequence gives a row of zeros.
        """
        result = np.zeros((len(sequences), self.item_embeddings.shape[1]), dtype=np.float32)
        usable = [i for i, s in enumerate(sequences) if len(s)]
        if usable:
            result[usable] = last_session_vectors(self.network, [sequences[i] for i in usable], batch_size).numpy()
        return result

    def save(self, folder: Path) -> None:
        """Write `core.safetensors` and `core.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.network.state_dict().items()}, folder / "core.safetensors")
        text = json.dumps({"format": FORMAT, **self._description, "items": self.items}, ensure_ascii=False)
        (folder / "core.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Core:
        """Read what `save` wrote; raises `BadInputError` naming the file if it is anything else."""
        description = read_description(folder, "core.json", FORMAT)
        del description["format"]
        try:
            items = description.pop("items")
            network = CoreNetwork(len(items), **description)
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise BadInputError(f"{folder / 'core.json'}: does not describe a CORE model ({error!r})") from error
        load_weights(network, folder / "core.safetensors")
        return cls(items, network, description)


@torch.inference_mode()
def last_session_vectors(network: CoreNetwork, sequences: Sequence[np.ndarray], batch_size: int = 512) -> torch.Tensor:
    """Return [n, dim] unit vectors of whole, non-empty sequences (their newest `max_length` items)."""
    device, limit = network.table.weight.device, network.max_length
    lengths = np.array([min(len(s), limit) for s in sequences], dtype=np.int64)
    result = torch.empty(len(sequences), network.table.embedding_dim, device=device)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        prefixes = network(torch.from_numpy(pad([sequences[r][-limit:] for r in rows])).to(device))
        result[rows] = prefixes[np.arange(len(rows)), lengths[rows] - 1]
    return result


def pad(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Return int64 [n, longest]: each sequence followed by its own last item, so that no other item is touched."""
    longest = max(len(s) for s in sequences)
    result = np.empty((len(sequences), longest), dtype=np.int64)
    for row, sequence in zip(result, sequences, strict=True):
        row[: len(sequence)] = sequence
        row[len(sequence) :] = sequence[-1]
    return result
