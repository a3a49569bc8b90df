"""Multi-head self-attention, as SASRec (to the left only) and BERT4Rec (both ways) use it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(dim / heads)) V of every head, side by side, through one linear layer.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.
    """

    def __init__(self, dim: int, heads: int, dropout: float, *, causal: bool) -> None:
        """`causal`: a place attends to itself and to what is left of it. `dropout` is of the attention weights."""
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.project = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Return [batch, length, dim] of x [batch, length, dim].

        `visible`: bool [batch, length], the places that may be attended to at all; None: all of them.
        """
        batch, length, dim = x.shape
        projected = self.project(x).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if visible is None else visible[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
        )
        return self.out(read.transpose(1, 2).reshape(batch, length, dim))
