"""What the baselines' networks share: the item table, what they are trained on, and the states they predict from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ml.retrieval.core_training import Window

INIT_STD = 0.02
"""Standard deviation of new item and position vectors, and of a transformer's weights (BERT4Rec; RecBole)."""


class Examples(NamedTuple):
    """One step's training examples.

    `inputs` int64 [batch, length], padded on the right; `wanted` bool [batch, length]: the states that predict an
    item; `targets` int64 [wanted.sum()]: the items, in the order of the true places of `wanted`.
    """

    inputs: torch.Tensor
    wanted: torch.Tensor
    targets: torch.Tensor


class ItemNetwork(nn.Module):
    """A network whose states score items by the inner product with the items' input vectors, plus a bias.

    Subclasses define `forward`: int64 [batch, length] to states [batch, length, dim]. Here the state at a place
    depends on the items up to it alone and predicts the next one; a network that works otherwise overrides
    `examples` and `question`.

    The table's rows are the items, then the padding, then `specials` rows more. Table and output vectors are the same
    (tied).
    """

    def __init__(self, n_items: int, dim: int, *, sparse: bool, bias: bool, specials: int = 0) -> None:
        super().__init__()
        self.n_items, self.padding = n_items, n_items
        self.table = nn.Embedding(n_items + 1 + specials, dim, sparse=sparse)
        nn.init.normal_(self.table.weight, std=INIT_STD)
        self.bias = nn.Parameter(torch.zeros(n_items)) if bias else None

    def examples(self, windows: Sequence[Window], generator: np.random.Generator) -> Examples:
        """Return what a batch of windows asks: after each item from number `known` on, the one that follows."""
        items, lengths = pad([w.items for w in windows], self.padding)
        first = np.array([w.known for w in windows])[:, None]
        place = np.arange(items.shape[1] - 1)[None, :]
        wanted = (place >= first) & (place < lengths[:, None] - 1)
        return self.on_device(items[:, :-1], wanted, items[:, 1:][wanted])

    def question(self, history: np.ndarray) -> np.ndarray:
        """Return the input whose last state predicts the item after `history`."""
        return history

    def states(self, examples: Examples) -> torch.Tensor:
        """Return [targets, dim]: the states that predict, and no state of padding."""
        return self(examples.inputs)[examples.wanted]

    def on_device(self, inputs: np.ndarray, wanted: np.ndarray, targets: np.ndarray) -> Examples:
        """Return the arrays as tensors where the network is."""
        device = self.table.weight.device
        return Examples(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (inputs, wanted, targets)))


def start_small(module: nn.Module) -> None:
    """Draw the weights of all linear layers in `module` from N(0, `INIT_STD`²), and set their constants to zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)


def pad(sequences: Sequence[np.ndarray], filler: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int64 [n, longest], each sequence followed by `filler`, and the sequences' lengths."""
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    result = np.full((len(sequences), lengths.max()), filler, dtype=np.int64)
    result[np.arange(result.shape[1]) < lengths[:, None]] = np.concatenate(sequences)
    return result, lengths


@torch.inference_mode()
def last_states(
    network: ItemNetwork, histories: Sequence[np.ndarray], max_length: int, batch_size: int = 512
) -> torch.Tensor:
    """Return [n, dim]: the state that predicts the item after each non-empty history (its newest `max_length` items).

    Similar lengths are computed together; which ones changes nothing but rounding.
    """
    asked = [network.question(np.asarray(h[-max_length:], dtype=np.int64)) for h in histories]
    device = network.table.weight.device
    result = torch.empty(len(asked), network.table.embedding_dim, device=device)
    order = np.argsort([len(a) for a in asked], kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        inputs, lengths = pad([asked[r] for r in rows], network.padding)
        states = network(torch.from_numpy(inputs).to(device))
        result[torch.from_numpy(rows)] = states[np.arange(len(rows)), lengths - 1]
    return result


@torch.inference_mode()
def item_scores(network: ItemNetwork, states: torch.Tensor) -> torch.Tensor:
    """Return [n, items]: the scores of all items by states [n, dim]."""
    scores = states @ network.table.weight[: network.n_items].T
    return scores if network.bias is None else scores + network.bias
