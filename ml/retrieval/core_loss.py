"""CORE's robust distance as a loss (CORE 3.3-3.4): cosine over temperature, softmax over all or sampled items."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `sessions @ items.T / temperature` that never holds all logits.

    Loss and gradients are made chunk by chunk in the forward pass, each chunk small enough for the processor's cache:
    memory does not grow with targets times items, and each logit is visited once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        sessions: torch.Tensor,
        items: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        chunk: int,
    ) -> torch.Tensor:
        count = len(targets)
        session_grad = torch.empty_like(sessions)
        item_grad = torch.zeros_like(items)
        total = sessions.new_zeros(())
        for start in range(0, count, chunk):
            part = sessions[start : start + chunk]
            wanted = targets[start : start + chunk, None]
            logits = (part / temperature) @ items.T
            target_logits = logits.gather(1, wanted).squeeze(1)
            # cosines over the temperature are bounded by 1/temperature, but small temperatures are allowed
            top = logits.amax(dim=1, keepdim=True)
            weights = logits.sub_(top).exp_()
            mass = weights.sum(dim=1, keepdim=True)
            total += (mass.log() + top).sum() - target_logits.sum()
            weights /= mass
            weights.scatter_add_(1, wanted, -torch.ones_like(mass))
            session_grad[start : start + chunk] = weights @ items
            item_grad.addmm_(weights.T, part)
        scale = 1 / (temperature * count)
        ctx.save_for_backward(session_grad.mul_(scale), item_grad.mul_(scale))
        return total / count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        session_grad, item_grad = ctx.saved_tensors
        return session_grad * grad_outputs[0], item_grad * grad_outputs[0], None, None, None


def full_softmax_loss(
    sessions: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, temperature: float, dropout: float
) -> torch.Tensor:
    """Return the mean cross-entropy of `targets` [m] among all items, given unit `sessions` [m, dim].

    `table` [items, dim] is dropped out element by element (item dropout), then brought to unit length.
    """
    items = functional.normalize(functional.dropout(table, dropout), dim=-1)
    chunk = max(32, 2_000_000 // max(len(items), 1))
    loss = _ChunkedCrossEntropy.apply(sessions, items, targets, temperature, chunk)
    assert isinstance(loss, torch.Tensor)
    return loss


def sampled_softmax_loss(
    sessions: torch.Tensor,
    targets: torch.Tensor,
    target_vectors: torch.Tensor,
    negatives: torch.Tensor,
    negative_vectors: torch.Tensor,
    log_expected: torch.Tensor,
    temperature: float,
    dropout: float,
) -> torch.Tensor:
    """Return a cross-entropy over each target [m] and `negatives` [s] shared by the batch.

    The partition function is estimated by importance sampling: a negative counts as exp(logit) / expected count
    (`log_expected` [s]: log of how often the item is drawn per step), and is left out of the rows whose target it is.
    That is unbiased for the full softmax's partition function, and its cost does not depend on the catalogue.
    Vectors are raw table rows; `target_vectors` [m, dim] and `negative_vectors` [s, dim] get item dropout here.
    """
    wanted = functional.normalize(functional.dropout(target_vectors, dropout), dim=-1)
    others = functional.normalize(functional.dropout(negative_vectors, dropout), dim=-1)
    target_logits = (sessions * wanted).sum(dim=-1) / temperature
    logits = sessions @ others.T / temperature - log_expected
    logits = logits.masked_fill(targets[:, None] == negatives[None, :], -torch.inf)
    return (torch.cat([target_logits[:, None], logits], dim=1).logsumexp(dim=1) - target_logits).mean()
