"""NextItNet: dilated causal convolutions over a sequence's items (Yuan et al., WSDM 2019)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ml.baselines.network import ItemNetwork

KERNEL = 3
"""Places a convolution looks at, as in the authors' code."""
DILATIONS = (1, 4)
"""Of the first convolution of a block, again and again; the second one's is double: 1, 2, 4, 8, 1, ... (paper)."""


class NextItNet(ItemNetwork):
    """Item vectors through residual blocks of two dilated causal convolutions.

    A block is x + relu(norm(conv_2d(relu(norm(conv_d(x)))))), the second of the paper's two residual blocks: conv_d
    looks at places t, t - d, t - 2d, and conv_2d twice as far. The score of item j is the last block's state · E[j] +
    b_j.

    Departures from the paper:
    - The output layer's item vectors are the table's, not a second table: as in the other baselines.
    - Dropout on item vectors and on states before scoring; the paper has none.
    - The sequence's beginning is padded with zeros inside the convolutions, not with a padding item, so that a
      prefix's state does not depend on how far it was padded.
    """

    def __init__(self, n_items: int, *, dim: int, layers: int, dropout: float, sparse: bool = False) -> None:
        """`layers`: blocks, each of two convolutions."""
        super().__init__(n_items, dim, sparse=sparse, bias=True)
        self.input_dropout, self.output_dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, DILATIONS[i % len(DILATIONS)]) for i in range(layers))

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Return states [batch, length, dim]; each sees the newest `receptive_field` items up to its own."""
        x = self.input_dropout(self.table(items))
        for block in self.blocks:
            x = block(x)
        return self.output_dropout(x)


def receptive_field(layers: int) -> int:
    """Return how many newest items a state depends on: 1 + (kernel - 1) · the sum of all dilations."""
    return 1 + (KERNEL - 1) * sum(3 * DILATIONS[i % len(DILATIONS)] for i in range(layers))


class CausalConvolution(nn.Module):
    """A one-dimensional convolution over places t, t - dilation, ..., zeros before the first place.

    It is computed as one matrix product over the shifted copies side by side, which a CPU does faster than its
    convolution for channels this few.
    """

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.linear = nn.Linear(KERNEL * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [batch, length, dim] of x [batch, length, dim]."""
        length, reach = x.shape[1], (KERNEL - 1) * self.dilation
        padded = functional.pad(x, (0, 0, reach, 0))
        taps = [padded[:, start : start + length] for start in range(0, reach + 1, self.dilation)]
        return self.linear(torch.cat(taps, dim=-1))


class _Block(nn.Module):
    """Two convolutions, the second with double the dilation, each normalised, and a residual around both."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.first, self.second = CausalConvolution(dim, dilation), CausalConvolution(dim, 2 * dilation)
        self.first_norm, self.second_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.first_norm(self.first(x)))
        return x + functional.relu(self.second_norm(self.second(hidden)))
