"""BERT4Rec: a transformer that fills in hidden items (Sun et al., CIKM 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ml.baselines.attention import SelfAttention
from ml.baselines.network import INIT_STD, Examples, ItemNetwork, pad, start_small
from ml.retrieval.core_training import Window


class Bert4Rec(ItemNetwork):
    """Item and position vectors through blocks that look both ways; hidden items are predicted (Sun et al.).

    With x_i = dropout(norm(E[item i] + P[i])) each block is x = norm(x + dropout(attention(x))), then
    x = norm(x + dropout(W2 gelu(W1 x + b1) + b2)), the inner width four times the outer; item j scores
    norm(gelu(W x + b)) · E[j] + b_j (the norm as in the authors' code). Training hides a random `mask_share` of
    the items behind a mask and asks for them (cloze); a question is the history with one mask behind it.

    How often a sequence is shown: 1 / mask_share cloze copies an epoch, each hiding its own random items, so that an
    item is a target once an epoch on average, as in the other systems; and one copy that hides the last item alone,
    which is what a question looks like. A copy that happens to hide nothing is left out.

    Departures from the paper:
    - It draws ten cloze copies before training; here every epoch draws anew.
    - Positions count from the first item of what is seen, as in `SasRec`.
    - Padding is invisible to attention, so that a score does not depend on what else is in the batch.
    - Only softmax cross-entropy by Adam: no weight decay, warm-up or gradient clipping.
    """

    def __init__(
        self,
        n_items: int,
        *,
        dim: int,
        layers: int,
        heads: int,
        dropout: float,
        max_length: int,
        mask_share: float,
        sparse: bool = False,
    ) -> None:
        super().__init__(n_items, dim, sparse=sparse, bias=True, specials=1)
        self.mask, self.mask_share = n_items + 1, mask_share
        # A history of max_length items and the mask behind it.
        self.positions = nn.Parameter(torch.randn(max_length + 1, dim) * INIT_STD)
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout) for _ in range(layers))
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        start_small(self)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Return [batch, length, dim]: what each place says its item is, seeing all of `items` but the padding."""
        x = self.dropout(self.norm(self.table(items) + self.positions[: items.shape[1]]))
        visible = items != self.padding
        for block in self.blocks:
            x = block(x, visible)
        return self.head(x)

    def examples(self, windows: Sequence[Window], generator: np.random.Generator) -> Examples:
        """Return the cloze copies and the last-item copy of a batch of windows, those that hide something.

        Of a window that continues a longer sequence only the items that no earlier window holds are hidden.
        """
        items, lengths = pad([w.items for w in windows], self.padding)
        known = np.array([w.known for w in windows])[:, None]
        place = np.arange(items.shape[1])[None, :]
        may_hide = (place < lengths[:, None]) & ((place > known) | (known == 0))
        copies = max(1, round(1 / self.mask_share))
        cloze = (generator.random((copies, *items.shape)) < self.mask_share) & may_hide
        last = place == lengths[:, None] - 1
        hidden = np.concatenate([*cloze, last])
        shown = hidden.any(axis=1)
        hidden, items = hidden[shown], np.tile(items, (copies + 1, 1))[shown]
        return self.on_device(np.where(hidden, self.mask, items), hidden, items[hidden])

    def question(self, history: np.ndarray) -> np.ndarray:
        """Return the history with a mask behind it."""
        return np.append(history, self.mask)


class _Block(nn.Module):
    """Attention, then a point-wise network, each with a residual and a normalisation after it."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, dropout, causal=False)
        self.network = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.attention_norm, self.network_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, visible)))
        return self.network_norm(x + self.dropout(self.network(x)))
