"""Key/value caches: the instruction's, computed once, and a batch's, which starts from it and grows in place.

Imports torch and transformers: import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from ml.errors import BadInputError

SPARE_POSITIONS = 64
"""Positions added when a buffer is full."""


class BufferLayer(DynamicLayer):
    """One layer's keys and values, [rows, heads, positions, dim], in buffers that have room to grow.

    transformers' own dynamic layer concatenates, which copies the whole cache at every token; this one writes behind
    what is there. Rows leave by moving the last rows into their places.
    """

    def __init__(self, buffers: tuple[torch.Tensor, torch.Tensor], length: int) -> None:
        """Use `buffers` (keys, values), [rows, heads, capacity, dim], of which `length` positions are filled."""
        super().__init__()
        self._buffers = buffers
        self.dtype, self.device, self.is_initialized = buffers[0].dtype, buffers[0].device, True
        self.fill_to(length)

    @classmethod
    def starting_with(cls, keys: torch.Tensor, values: torch.Tensor, rows: int, capacity: int) -> BufferLayer:
        """Return a layer of `rows` rows that all start with one row's `keys` and `values`.

        The room behind is zero: masked positions are weighted with zero, and zero times what memory held may be NaN.
        """
        buffers = tuple(part.new_zeros((rows, part.shape[1], capacity, part.shape[3])) for part in (keys, values))
        for buffer, part in zip(buffers, (keys, values), strict=True):
            buffer[:, :, : part.shape[2]] = part
        return cls((buffers[0], buffers[1]), keys.shape[2])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new positions behind the present ones; return all keys and values, as views."""
        start, end = self._length, self._length + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            room = end + SPARE_POSITIONS - start
            self._buffers = tuple(torch.nn.functional.pad(part, (0, 0, 0, room)) for part in (self.keys, self.values))  # pyright: ignore
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.fill_to(end)
        return self.keys, self.values  # pyright: ignore[reportReturnType]

    def part(self, rows: slice) -> BufferLayer:
        """Return a layer over some of the rows; what is written to it stands here too, once `fill_to` is called."""
        return BufferLayer((self._buffers[0][rows], self._buffers[1][rows]), self._length)

    def repeated(self, rows: Sequence[int], room: int) -> BufferLayer:
        """Return a copy with one row per entry of `rows`, and room for `room` further positions."""
        copies = []
        for buffer in self._buffers:
            _, heads, _, dim = buffer.shape
            copy = buffer.new_zeros((len(rows), heads, self._length + room, dim))
            copy[:, :, : self._length] = buffer[list(rows), :, : self._length]
            copies.append(copy)
        return BufferLayer((copies[0], copies[1]), self._length)

    def move_rows(self, moves: Sequence[tuple[int, int]], rows: int) -> None:
        """Copy row `source` over row `target` for each (source, target), then keep the first `rows` rows."""
        for buffer in self._buffers:
            for source, target in moves:
                buffer[target, :, : self._length] = buffer[source, :, : self._length]
        self._buffers = (self._buffers[0][:rows], self._buffers[1][:rows])
        self.fill_to(self._length)

    def fill_to(self, length: int) -> None:
        """Count the first `length` positions as filled."""
        self._length = length
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


@dataclass(frozen=True)
class PrefixCache:
    """The keys and values of tokens that every row starts with: per layer a pair [1, heads, positions, dim]."""

    token_ids: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def __len__(self) -> int:
        """The number of positions."""
        return len(self.token_ids)

    @classmethod
    @torch.inference_mode()
    def compute(cls, model: PreTrainedModel, token_ids: Sequence[int]) -> PrefixCache:
        """Run `model` over `token_ids` once."""
        cache: Any = Cache(layer_class_to_replicate=DynamicLayer)
        # Without tokens one is read for the layers' shapes, and none of it kept.
        ids = torch.tensor([list(token_ids) or [0]], device=model.device)
        model(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
        kept = len(token_ids)
        return cls(
            tuple(token_ids), tuple((layer.keys[:, :, :kept], layer.values[:, :, :kept]) for layer in cache.layers)
        )

    def expand(self, rows: int, capacity: int) -> list[BufferLayer]:
        """Return the layers of a cache of `rows` rows that all start with this prefix, with room for `capacity`."""
        return [BufferLayer.starting_with(keys, values, rows, capacity) for keys, values in self.layers]


def refuse_unsuited(model: PreTrainedModel, positions: int) -> None:
    """Raise BadInputError where rows of `positions` positions cannot share a prefix and be padded.

    Such are models with recurrent or compressed states, windows shorter than the rows, and rows longer than the model's
    positions.
    """
    config = model.config.get_text_config(decoder=True)
    for layer in DynamicCache(config=config).layers:
        window = getattr(layer, "sliding_window", None)
        if not isinstance(layer, DynamicLayer) or (window is None and type(layer) is not DynamicLayer):
            raise BadInputError(
                f"generation: model type {config.model_type!r} keeps a {type(layer).__name__}; expected a causal model "
                "whose every layer keeps attention keys and values: choose another base model"
            )
        if window is not None and window < positions:
            raise BadInputError(
                f"generation: a row needs {positions} positions, the model's attention window is {window}: "
                "lower prompts.max_tokens or choose another base model"
            )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and positions > longest:
        raise BadInputError(
            f"generation: a row needs {positions} positions (prompt and generation.max_new_tokens), the model has "
            f"{longest}: lower prompts.max_tokens or choose another base model"
        )
