"""Writing one batch: prompts of similar length go in together, each row leaves when its answer is complete.

Imports torch and transformers: import it inside functions only.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from ml.generation.beam import Found, Partial, search_codes
from ml.generation.prefix_cache import BufferLayer, PrefixCache
from ml.generation.sampling import choose, row_noise
from ml.generation.trie import ROOT, CodeTrie
from ml.settings import GenerationSettings

PROMPT_TOKENS = 16_384
CPU_PROMPT_TOKENS = 1024
"""Prompt tokens read at once: a GPU wants many, a core's caches few."""
BEAM_ROWS = 64
"""Partial codes read at once: each takes a copy of its prompt's keys and values."""


@dataclass
class Row:
    """One prompt being answered. `pending` are the tokens that the model has not read yet."""

    index: int
    pending: list[int]
    noise: np.ndarray
    node: int = ROOT
    in_code: bool = True
    written: int = 0
    title_ids: list[int] = field(default_factory=list)
    item_id: str | None = None
    log_probability: float = 0.0
    candidates: list[Found] = field(default_factory=list)


class BatchWriter:
    """Answers batches of prompts with one model, trie and prefix cache."""

    def __init__(
        self,
        model: PreTrainedModel,
        prefix: PrefixCache,
        trie: CodeTrie,
        separator_ids: Sequence[int],
        end_id: int,
        banned_ids: Sequence[int],
        settings: GenerationSettings,
    ) -> None:
        """`banned_ids` are the tokens that no title may hold; `end_id` always may."""
        self._model, self._prefix, self._trie, self._settings = model, prefix, trie, settings
        self._separator_ids, self._end_id = list(separator_ids), end_id
        self._banned = torch.tensor(sorted(set(banned_ids) - {end_id}), dtype=torch.long, device=model.device)
        self._forward_options = _forward_options(model)

    @torch.inference_mode()
    def write(self, inputs: Sequence[Sequence[int]], row_keys: Sequence[str], finished: Callable[[Row], None]) -> None:
        """Answer `inputs` (token ids that all start with the prefix); call `finished` with each row as it ends.

        A row whose constraint failed has no item.
        """
        settings, shared = self._settings, len(self._prefix)
        rows = [
            Row(
                i,
                list(ids[shared:]),
                row_noise(settings.seed, key, settings.max_new_tokens if settings.temperature else 0),
            )
            for i, (ids, key) in enumerate(zip(inputs, row_keys, strict=True))
        ]
        longest = max(len(row.pending) for row in rows)
        capacity = shared + longest + settings.max_new_tokens + len(self._separator_ids)
        state = _Reading.starting_with(self._prefix, len(rows), capacity)
        logits = self._read_prompts(rows, state)
        (self._advance if settings.beams == 1 else partial(self._search, state))(rows, logits)
        while True:
            ended = [row for row in rows if not row.pending]
            for row in ended:
                finished(row)
            if ended:
                rows = state.drop(rows)
            if not rows:
                return
            self._advance(rows, self._read(rows, state))

    def _search(self, state: _Reading, rows: list[Row], logits: torch.Tensor) -> None:
        """Find each row's items by beam search and put the best one's code into `pending`; none: the row ended."""
        step = max(1, BEAM_ROWS // self._settings.beams)
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            read = partial(self._read_partials, state, first)
            found = search_codes(
                logits[first : first + step], read, self._trie, self._settings.beams, self._settings.candidates
            )
            for row, items in zip(some, found, strict=True):
                self._take_item(row, items)

    def _read_partials(self, state: _Reading, first: int, partials: Sequence[Partial]) -> torch.Tensor:
        """Return the logits behind partial codes of the rows from `first` on, each read behind its own prompt."""
        copies = state.repeated([first + one.prompt for one in partials], len(partials[0].tokens))
        return self._read([Row(i, list(one.tokens), np.empty(0)) for i, one in enumerate(partials)], copies)

    def _take_item(self, row: Row, items: list[Found]) -> None:
        row.pending, row.candidates, row.in_code = [], items, False
        if items:
            row.item_id, row.log_probability = items[0].item_id, items[0].log_probability
            row.written = len(items[0].tokens) + len(self._separator_ids)
            room = row.written < self._settings.max_new_tokens
            row.pending = [*items[0].tokens, *self._separator_ids] if room else []

    def _read_prompts(self, rows: list[Row], state: _Reading) -> torch.Tensor:
        """Feed the prompts a few rows at a time: many gain nothing here, and few of like length need little padding."""
        budget = CPU_PROMPT_TOKENS if self._model.device.type == "cpu" else PROMPT_TOKENS
        parts, logits, first = [], [], 0
        while first < len(rows):
            width = max(len(row.pending) for row in rows[first:])
            last = min(first + max(budget // width, 1), len(rows))
            parts.append(state.part(slice(first, last)))
            logits.append(self._read(rows[first:last], parts[-1]))
            first = last
        state.join(parts)
        return torch.cat(logits)

    def _read(self, rows: list[Row], state: _Reading) -> torch.Tensor:
        """Feed every row's pending tokens, left padded; return the logits behind the last, float32."""
        width = max(len(row.pending) for row in rows)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        present = np.zeros((len(rows), width), dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, width - len(row.pending) :] = row.pending
            present[i, width - len(row.pending) :] = 1
        mask, positions = state.extend(present)
        device = self._model.device
        arguments: dict[str, object] = {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
            "past_key_values": state.cache,
            "use_cache": True,
        }
        if "logits_to_keep" in self._forward_options:
            arguments["logits_to_keep"] = 1
        if "position_ids" in self._forward_options:
            arguments["position_ids"] = torch.from_numpy(positions).to(device)
        return self._model(**arguments).logits[:, -1].float()

    def _advance(self, rows: list[Row], logits: torch.Tensor) -> None:
        """Choose each row's next token and put it (with what must follow it) into `pending`; none: the row ended."""
        scores = self._masked(rows, logits)
        noise = np.array([row.noise[row.written] if len(row.noise) else 0.0 for row in rows])
        tokens = choose(scores, self._settings.temperature, self._settings.top_p, noise)
        chosen = scores.gather(-1, tokens[:, None]).squeeze(-1)
        # The full softmax: how likely the model itself finds the token, whatever the constraint left it.
        log_probabilities = (chosen - torch.logsumexp(logits, dim=-1)).tolist()
        for row, token, log_probability in zip(rows, tokens.tolist(), log_probabilities, strict=True):
            row.pending = []
            row.written += 1
            if not math.isfinite(log_probability):
                row.item_id = None
            elif row.in_code:
                self._take_code_token(row, token, log_probability)
            elif token != self._end_id:
                row.title_ids.append(token)
                row.pending = [token] if row.written < self._settings.max_new_tokens else []

    def _take_code_token(self, row: Row, token: int, log_probability: float) -> None:
        row.node = self._trie.step(row.node, token)
        row.log_probability += log_probability
        row.item_id = self._trie.item(row.node)
        if row.item_id is None:
            row.pending = [token]
            return
        row.in_code = False
        row.written += len(self._separator_ids)
        row.pending = [token, *self._separator_ids] if row.written < self._settings.max_new_tokens else []

    def _masked(self, rows: list[Row], logits: torch.Tensor) -> torch.Tensor:
        """Return the logits with -inf at tokens that do not continue a code, or do not belong in a title."""
        scores = logits.index_fill(-1, self._banned, -math.inf)
        in_code = np.array([i for i, row in enumerate(rows) if row.in_code], dtype=np.int64)
        if len(in_code):
            at, tokens = self._trie.allowed_batch(np.array([rows[i].node for i in in_code]))
            where = (torch.from_numpy(in_code[at]).to(logits.device), torch.from_numpy(tokens).long().to(logits.device))
            scores[torch.from_numpy(in_code).to(logits.device)] = -math.inf
            scores[where] = logits[where]
        return scores


class _Reading:
    """What the model has read of a batch: its cache, which positions of it are real, and each row's length."""

    def __init__(self, layers: list[BufferLayer], mask: np.ndarray, lengths: np.ndarray) -> None:
        self.cache = Cache(layers=list(layers))
        self._layers, self._mask, self._lengths = layers, mask, lengths

    @classmethod
    def starting_with(cls, prefix: PrefixCache, rows: int, capacity: int) -> _Reading:
        mask = np.ones((rows, len(prefix)), dtype=np.int64)
        return cls(prefix.expand(rows, capacity), mask, np.full(rows, len(prefix), dtype=np.int64))

    def repeated(self, rows: Sequence[int], room: int) -> _Reading:
        """Return a copy of some of the rows, any of them several times, with `room` for further positions."""
        layers = [layer.repeated(rows, room) for layer in self._layers]
        return _Reading(layers, self._mask[list(rows)], self._lengths[list(rows)])

    def part(self, rows: slice) -> _Reading:
        """Return some of the rows, to be read on their own and then joined."""
        return _Reading([layer.part(rows) for layer in self._layers], self._mask[rows], self._lengths[rows])

    def join(self, parts: list[_Reading]) -> None:
        """Take over what was read of the parts; positions that only other parts have are masked."""
        positions = max(part._mask.shape[1] for part in parts)
        masks = [np.pad(part._mask, ((0, 0), (0, positions - part._mask.shape[1]))) for part in parts]
        self._mask = np.concatenate(masks)
        self._lengths = np.concatenate([part._lengths for part in parts])
        for layer in self._layers:
            layer.fill_to(positions)

    def extend(self, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add a block of positions, 1 where real; return the mask so far and the block's position ids.

        Padding stands before a block's own tokens. It is masked and takes no position number, so the tokens behind it
        have the numbers they would have alone.
        """
        self._mask = np.concatenate([self._mask, present], axis=1)
        positions = np.maximum(self._lengths[:, None] + present.cumsum(axis=1) - 1, 0)
        self._lengths = self._lengths + present.sum(axis=1)
        return self._mask, positions

    def drop(self, rows: list[Row]) -> list[Row]:
        """Drop the rows that ended; the last rows move into their places. Return the rows in their new order."""
        alive = [i for i, row in enumerate(rows) if row.pending]
        order = list(range(len(alive)))
        movers = [i for i in alive if i >= len(alive)]
        moves = [(movers.pop(), i) for i in order if not rows[i].pending]
        for source, target in moves:
            order[target] = source
        self._mask, self._lengths = self._mask[order], self._lengths[order]
        for layer in self._layers:
            layer.move_rows(moves, len(alive))
        return [rows[i] for i in order]


def _forward_options(model: PreTrainedModel) -> set[str]:
    """Return the names of the arguments that the model's own forward takes, below any adapter."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore
    return set(inspect.signature(base.forward).parameters)
