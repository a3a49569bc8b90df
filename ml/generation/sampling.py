"""Choosing the next token of every row: greedy, or by temperature and nucleus with each row's own noise.

Imports torch: import it inside functions only.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def row_noise(seed: int, row_key: str, draws: int) -> np.ndarray:
    """Return `draws` uniform numbers in [0, 1) that depend on the seed and the row's key alone (Philox 4x64)."""
    key = hashlib.blake2b(f"{seed}\0{row_key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(draws)


def choose(scores: torch.Tensor, temperature: float, top_p: float, noise: np.ndarray) -> torch.Tensor:
    """Return one token id per row of `scores` [rows, vocabulary] (float32; -inf where a token is masked).

    Temperature 0 takes the best, the smallest id among equals. Otherwise the scores are divided by the temperature, the
    smallest set of likeliest tokens that holds `top_p` of the probability is kept, and row `i` draws from it by inverse
    distribution function at `noise[i]`. The set is walked in order of token ids, so that two nearly equal scores that
    change places with the batch's rounding do not change the draw. A row without a finite score returns any token: the
    caller looks.
    """
    if temperature == 0:
        return scores.argmax(dim=-1)
    probabilities = torch.softmax(scores / temperature, dim=-1)
    if top_p < 1:
        likeliest, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        outside = likeliest.cumsum(dim=-1) - likeliest >= top_p
        probabilities = probabilities.masked_fill(outside.scatter(-1, tokens, outside), 0.0)
    cumulative = probabilities.double().cumsum(dim=-1)
    at = torch.as_tensor(noise, device=scores.device)[:, None] * cumulative[:, -1:]
    # right=True skips the tokens of probability 0 that stand at the same height.
    return torch.searchsorted(cumulative, at, right=True).squeeze(-1).clamp_max(scores.shape[-1] - 1)
