"""SASRec: a transformer to the left (Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018)."""

from __future__ import annotations

import torch
from torch import nn

from ml.baselines.attention import SelfAttention
from ml.baselines.network import INIT_STD, ItemNetwork, start_small


class SasRec(ItemNetwork):
    """Item and position vectors through blocks of causal self-attention and a two-layer network.

    With x_i = dropout(sqrt(dim) · M[item i] + P[i]) (the factor as in the authors' code) each block is
    x + dropout(attention(norm(x))), then x + dropout(W2 relu(W1 norm(x) + b1) + b2); the last block's state,
    normalised, scores item j by its inner product with M[j], the paper's shared item table.

    Departures from the paper:
    - The loss is softmax cross-entropy over all items or sampled ones, not binary cross-entropy with one negative an
      item. RecBole trains it so; Petrov & Macdonald ("gSASRec", RecSys 2023) and Klenitskiy & Vasilev ("Turning
      Dross Into Gold Loss", RecSys 2023) show that the paper's loss ranks worse.
    - Positions count from the first item of what is seen, not back from the last: one pass serves all prefixes.
    - Keys and values are made of norm(x) too, as the paper's text has it; the authors' code normalises queries alone.
    - All weights start normal with deviation 0.02, as RecBole's do, and none has an l2 penalty.
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
        sparse: bool = False,
    ) -> None:
        super().__init__(n_items, dim, sparse=sparse, bias=False)
        self.positions = nn.Parameter(torch.randn(max_length, dim) * INIT_STD)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim) if layers else nn.Identity()
        start_small(self.blocks)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Return states [batch, length, dim]; each sees the items [batch, length] up to its own.

        Without blocks a state is the last item's scaled vector plus its position's: the scores are similarities of
        items, a factorised Markov chain, as the paper notes.
        """
        scale = self.table.embedding_dim**0.5
        x = self.dropout(self.table(items) * scale + self.positions[: items.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class _Block(nn.Module):
    """One self-attention block: attention, then the point-wise network, each behind a normalisation and a residual."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.network_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, dropout, causal=True)
        self.network = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.network(self.network_norm(x)))
