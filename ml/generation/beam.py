"""Beam search over item codes: several items for one prompt, best first, at the price of a token or two.

Imports torch: import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ml.generation.trie import ROOT, CodeTrie


@dataclass(frozen=True)
class Partial:
    """The beginning of a code: the prompt it continues, its node, tokens and log-probability."""

    prompt: int
    node: int = ROOT
    tokens: tuple[int, ...] = ()
    log_probability: float = 0.0


@dataclass(frozen=True)
class Found:
    """A finished code: the item it names and its log-probability under the model's full softmax."""

    item_id: str
    tokens: tuple[int, ...]
    log_probability: float


def search_codes(
    logits: torch.Tensor,
    read: Callable[[Sequence[Partial]], torch.Tensor],
    trie: CodeTrie,
    beams: int,
    candidates: int,
) -> list[list[Found]]:
    """Return up to `candidates` items per prompt, most likely first (equal ones: in the order of their codes).

    `logits` [prompts, vocabulary] are those behind each prompt; `read` returns the logits behind partial codes. At
    every level the `beams` most likely beginnings of a prompt go on, so that every item under them has its exact
    log-probability. A prompt whose logits are not finite finds nothing.
    """
    found: list[list[Found]] = [[] for _ in range(len(logits))]
    partials = [Partial(prompt) for prompt in range(len(logits)) if bool(torch.isfinite(logits[prompt]).all())]
    behind = logits[[partial.prompt for partial in partials]]
    while partials:
        owner, nodes, scores = _children(partials, behind, trie)
        finished = trie.finished(nodes)
        for row in _best(np.array([partials[i].prompt for i in owner]), scores, finished, candidates):
            parent = partials[owner[row]]
            item = trie.item(int(nodes[row]))
            assert item is not None  # the node is a finished code's
            code = (*parent.tokens, int(trie.tokens(nodes[row : row + 1])[0]))
            found[parent.prompt].append(Found(item, code, float(scores[row])))
        going_on = _best(np.array([partials[i].prompt for i in owner]), scores, ~finished, beams)
        partials = [_extended(partials[owner[row]], int(nodes[row]), float(scores[row]), trie) for row in going_on]
        if partials:
            behind = read(partials)
            finite = torch.isfinite(behind).all(dim=1)
            partials = [partial for partial, usable in zip(partials, finite.tolist(), strict=True) if usable]
            behind = behind[finite]
    return [sorted(items, key=lambda item: -item.log_probability)[:candidates] for items in found]


def _extended(partial: Partial, node: int, score: float, trie: CodeTrie) -> Partial:
    return Partial(partial.prompt, node, (*partial.tokens, int(trie.tokens(np.array([node]))[0])), score)


def _children(
    partials: Sequence[Partial], logits: torch.Tensor, trie: CodeTrie
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every child of the partials: whose it is, its node, and its log-probability."""
    owner, nodes = trie.children_batch(np.array([partial.node for partial in partials]))
    tokens = torch.from_numpy(trie.tokens(nodes)).long().to(logits.device)
    own = logits[torch.from_numpy(owner).to(logits.device), tokens] - torch.logsumexp(logits, dim=-1)[owner]
    before = np.array([partial.log_probability for partial in partials])
    return owner, nodes, before[owner] + own.double().cpu().numpy()


def _best(prompts: np.ndarray, scores: np.ndarray, usable: np.ndarray, limit: int) -> np.ndarray:
    """Return the rows with the `limit` highest scores of each prompt among the usable, best first, ties in order."""
    rows = np.flatnonzero(usable)
    rows = rows[np.lexsort((rows, -scores[rows], prompts[rows]))]
    starts = np.searchsorted(prompts[rows], prompts[rows])
    return rows[np.arange(len(rows)) - starts < limit]
