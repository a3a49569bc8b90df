"""Softmax cross-entropy over a catalogue: over all items without holding all logits, or over sampled negatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_CPU_CELLS, _GPU_CELLS = 1_500_000, 64_000_000
"""Logits held at once: on a CPU about what stays in its cache."""
_TINY = 1e-37
_NEVER = -1e30
"""Logit of what is left out; finite, so that a row with nothing else has a gradient (of zero)."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `states @ items.T + bias`, with loss and gradients made chunk by chunk of targets.

    The gradient of a row's loss by its logits is softmax - one_hot(target), so that both are at hand while the logits
    are in the cache and nothing is kept for the backward pass but three sums.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        items: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        chunk = max(32, (_GPU_CELLS if states.is_cuda else _CPU_CELLS) // max(len(items), 1))
        state_grad, item_grad = torch.empty_like(states), torch.zeros_like(items)
        bias_grad = None if bias is None else torch.zeros_like(bias)
        vectors, offsets = items.to(dtype), None if bias is None else bias.to(dtype)
        total = states.new_zeros(())
        for start in range(0, len(targets), chunk):
            part, wanted = states[start : start + chunk].to(dtype), targets[start : start + chunk, None]
            logits = part @ vectors.T if offsets is None else torch.addmm(offsets, part, vectors.T)
            weights = torch.softmax(logits, dim=1)
            total -= weights.gather(1, wanted).float().clamp_min(_TINY).log().sum()
            weights.scatter_add_(1, wanted, -torch.ones_like(wanted, dtype=dtype))
            state_grad[start : start + chunk] = weights @ vectors
            item_grad += weights.T @ part
            if bias_grad is not None:
                bias_grad += weights.sum(dim=0)
        for grad in (state_grad, item_grad, bias_grad):
            if grad is not None:
                grad /= len(targets)
        ctx.save_for_backward(state_grad, item_grad, bias_grad)
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*(None if grad is None else grad * grad_outputs[0] for grad in ctx.saved_tensors), None, None)


def full_softmax_loss(
    states: torch.Tensor,
    items: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return the mean cross-entropy of `targets` [m] among all `items` [n, dim] by `states` [m, dim].

    `bias` [n] is added to the logits; None: none is. `dtype`: of logits and products; sums and what is returned stay
    float32. A target less likely than 1e-37 counts as that likely; its gradient is exact.
    """
    loss = _ChunkedCrossEntropy.apply(states, items, bias, targets, dtype)
    assert isinstance(loss, torch.Tensor)
    return loss


class Negatives:
    """Draws the negatives of a step, shared by all its targets: half of them uniformly, half by popularity."""

    def __init__(self, n_items: int, targets: np.ndarray, count: int, generator: np.random.Generator) -> None:
        """`targets`: the item of every training target; drawing from them is drawing by popularity."""
        self.n_items, self.targets, self.count, self.generator = n_items, targets, count, generator
        self._frequency = np.bincount(targets, minlength=n_items) / len(targets)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return item indices [count] and the log of how often each is expected to be drawn per step [count]."""
        popular = self.count // 2
        uniform = self.count - popular
        drawn = np.concatenate(
            [
                self.generator.integers(self.n_items, size=uniform),
                self.targets[self.generator.integers(len(self.targets), size=popular)],
            ]
        )
        expected = uniform / self.n_items + popular * self._frequency[drawn]
        return torch.from_numpy(drawn), torch.from_numpy(np.log(expected).astype(np.float32))


def sampled_softmax_loss(
    target_logits: torch.Tensor,
    targets: torch.Tensor,
    negative_logits: torch.Tensor,
    negatives: torch.Tensor,
    log_expected: torch.Tensor,
) -> torch.Tensor:
    """Return the mean cross-entropy of `targets` [m] against negatives [s] that all of them share.

    `target_logits` [m], `negative_logits` [m, s]; `log_expected` [s] from `Negatives.draw`. A negative stands for
    1 / expected count items, which makes the sum over the negatives an unbiased estimate of the sum over all other
    items; where a negative is the row's own target it is left out (Jean et al. 2015, 3.2).
    """
    others = (negative_logits - log_expected).masked_fill(targets[:, None] == negatives[None, :], _NEVER)
    return (torch.logaddexp(target_logits, others.logsumexp(dim=1)) - target_logits).mean()
