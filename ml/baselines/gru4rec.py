"""GRU4Rec: a recurrent network over a sequence's items (Hidasi et al., ICLR 2016; Hidasi & Karatzoglou, CIKM 2018)."""

from __future__ import annotations

import torch
from torch import nn

from ml.baselines.network import ItemNetwork


class Gru4Rec(ItemNetwork):
    """Item vectors through one gated recurrent layer whose state scores the next item.

    With x_t = dropout(sqrt(dim) · E[item t]): z_t = σ(W_z x_t + U_z h_{t-1}), r_t = σ(W_r x_t + U_r h_{t-1}),
    ĥ_t = tanh(W x_t + r_t ∘ U h_{t-1}), h_t = z_t ∘ h_{t-1} + (1 - z_t) ∘ ĥ_t (all with constants; the paper has z
    and 1 - z the other way round and r inside U, which is PyTorch's cell), and the score of item j is
    norm(dropout(h_t)) · E[j] + b_j. One layer and no dense layer behind it, which the 2016 paper found best. Inputs
    and outputs share the table E ("constrained embedding" of the authors' code).

    Departures from the papers:
    - The state is normalised (LayerNorm) before it scores, and inputs are scaled by sqrt(dim). A GRU's states lie
      within ±1 and start far smaller, so that logits grow slowly: without this the network stays at popularity for
      many epochs, and early stopping ends it there.
    - The loss is softmax cross-entropy over all items or sampled ones (one of those that 2018 compares), not TOP1 or
      BPR-max; the negatives are the step's, half uniform and half by popularity with a correction, where 2018 adds
      samples by popularity to the batch's items.
    - A batch is whole sequences of similar length, and gradients go back through all of their steps, where the
      papers run sequences in parallel and go back one step.
    - Adam, not Adagrad with momentum.
    """

    def __init__(self, n_items: int, *, dim: int, dropout: float, sparse: bool = False) -> None:
        super().__init__(n_items, dim, sparse=sparse, bias=True)
        self.input_dropout, self.output_dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Return states [batch, length, dim]; each sees the items [batch, length] up to its own."""
        scale = self.table.embedding_dim**0.5
        states, _ = self.gru(self.input_dropout(scale * self.table(items)))
        return self.norm(self.output_dropout(states))
