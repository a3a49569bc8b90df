"""A weighted sum that makes the bought item the likeliest of its candidates, held near zero where examples are few.

Imports torch: import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def fit_weights(
    features: torch.Tensor, base: torch.Tensor, lengths: Sequence[int], targets: Sequence[int], penalty: float
) -> torch.Tensor:
    """Return the weights [features] of a conditional logit (McFadden 1974) behind the scores `base`.

    `features` [candidates, features] and `base` [candidates] hold the questions one behind the other; `lengths` are
    their numbers of candidates and `targets` the place of the bought one in each. `penalty` is that of the squared
    weights beside the summed loss, so that the fewer questions there are, the nearer to zero the weights stay.
    """
    weights = torch.zeros(features.shape[-1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = listwise_loss(base + features @ weights, lengths, targets)
        value = value + penalty / len(targets) * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]  # torch types the closure's result as a float
    return weights.detach()


def listwise_loss(scores: torch.Tensor, lengths: Sequence[int], targets: Sequence[int]) -> torch.Tensor:
    """Return the mean negative log-probability of the bought item among its candidates.

    That is ListNet's top-one form (Cao et al., ICML 2007) with one relevant item; `scores` are flat, as above.
    """
    inside = torch.arange(max(lengths)) < torch.tensor(list(lengths))[:, None]
    # not pad_sequence, whose gradient copies all questions once for each of them
    padded = scores.new_full(inside.shape, -torch.inf).masked_scatter(inside, scores)
    return nn.functional.cross_entropy(padded, torch.tensor(list(targets)))
