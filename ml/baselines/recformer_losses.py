"""What Recformer learns from: the contrastive losses of equations 10 and 12, and masked tokens (equation 9)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from ml.baselines.recformer_model import MaskedLanguageHead, RecformerNetwork
from ml.baselines.recformer_text import CLS, TokenBatch

MASKED_SHARE = 0.15
"""Tokens chosen for prediction (paper 2.3.1, after BERT)."""
_SHOWN_AS_MASK, _SHOWN_AS_OTHER = 0.8, 0.1


def contrastive_loss(
    sequences: torch.Tensor, items: torch.Tensor, targets: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the mean of -log softmax(sim(h_s, h_i) / temperature) at the right item, a scalar.

    `sequences` [n, d] and `items` [m, d] of unit length, `targets` [n] the right item's row. With the distinct next
    items of a batch it is L_IIC (equation 10, whose B is a set), with the item matrix L_FT (equation 12).
    """
    return functional.cross_entropy(sequences @ items.T / temperature, targets)


def in_batch_loss(
    sequences: torch.Tensor, items: torch.Tensor, targets: np.ndarray, temperature: float
) -> torch.Tensor:
    """Return L_IIC: `items` are the vectors of `np.unique(targets)`; sequences with the same next item share it."""
    _, places = np.unique(targets, return_inverse=True)
    return contrastive_loss(sequences, items, torch.from_numpy(places).to(sequences.device), temperature)


def mask_tokens(
    batch: TokenBatch, mask_id: int, vocabulary: int, generator: np.random.Generator
) -> tuple[TokenBatch, np.ndarray]:
    """Return a copy with tokens to predict hidden, and which those are, bool [n, longest] (paper 2.3.1).

    Each token but [CLS] is chosen with probability 15%; of the chosen, 80% show the mask, 10% any token and 10% stay.
    """
    chosen = batch.mask & (batch.types != CLS) & (generator.random(batch.ids.shape) < MASKED_SHARE)
    fate = generator.random(batch.ids.shape)
    other = generator.integers(0, vocabulary, batch.ids.shape)
    ids = np.where(chosen & (fate < _SHOWN_AS_MASK), mask_id, batch.ids)
    ids = np.where(chosen & (fate >= _SHOWN_AS_MASK) & (fate < _SHOWN_AS_MASK + _SHOWN_AS_OTHER), other, ids)
    return replace(batch, ids=ids), chosen


def masked_language_loss(
    network: RecformerNetwork, head: MaskedLanguageHead, shown: TokenBatch, ids: np.ndarray, chosen: np.ndarray
) -> torch.Tensor:
    """Return L_MLM (equation 9): the mean negative log-probability of the chosen tokens of `ids`; 0 without any."""
    places = torch.from_numpy(chosen).to(network.device)
    hidden = network.hidden(shown)[places]
    if not len(hidden):
        return hidden.sum()
    return functional.cross_entropy(head(hidden, network.words), torch.from_numpy(ids).to(network.device)[places])
