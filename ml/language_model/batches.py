"""Prompts as padded batches: grouped by length, padded on the left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ml.errors import BadInputError

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Label of a position that no loss is computed for, in PyTorch and transformers."""
EMPTY = -1
"""In place of a row number: a row without a response, which has no part in any loss."""
_GROUPED_BATCHES = 32
"""Batches whose prompts are sorted by length together: enough for little padding, few enough to stay shuffled."""


@dataclass(frozen=True)
class TokenRow:
    """One prompt: input token ids followed by response token ids, and where the response begins."""

    ids: np.ndarray
    response_start: int


class PromptTokens:
    """The token ids of a `prompts` table, as flat arrays; a map-style dataset of `TokenRow`.

    Raises BadInputError naming the example where a prompt has no input, no response, or a token id that is not in a
    vocabulary of `vocabulary_size`.
    """

    def __init__(self, prompts: pa.Table, vocabulary_size: int | None = None) -> None:
        self._inputs, self._input_ends = _flat(prompts["input_ids"])
        self._responses, self._response_ends = _flat(prompts["response_ids"])
        self.input_lengths = np.diff(self._input_ends)
        self.response_lengths = np.diff(self._response_ends)
        self.lengths = self.input_lengths + self.response_lengths
        self._check(prompts, vocabulary_size)

    def _check(self, prompts: pa.Table, vocabulary_size: int | None) -> None:
        for column, lengths in (("input_ids", self.input_lengths), ("response_ids", self.response_lengths)):
            if len(lengths) and lengths.min() == 0:
                example = prompts["example_id"][int(lengths.argmin())]
                raise BadInputError(f"prompts: example {example}: {column} is empty; expected at least one token")
        for ids, ends in ((self._inputs, self._input_ends), (self._responses, self._response_ends)):
            wrong = (ids < 0) | (ids >= (vocabulary_size or np.iinfo(np.int32).max))
            if wrong.any():
                row = int(np.searchsorted(ends, int(wrong.argmax()), side="right")) - 1
                raise BadInputError(
                    f"prompts: example {prompts['example_id'][row]}: token id {ids[wrong.argmax()]} is not in the "
                    f"model's vocabulary of {vocabulary_size}; make the prompts again with this model's tokenizer"
                )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> TokenRow:
        before = self._inputs[self._input_ends[row] : self._input_ends[row + 1]]
        response = self._responses[self._response_ends[row] : self._response_ends[row + 1]]
        return TokenRow(np.concatenate([before, response]), len(before))

    def content_hash(self) -> str:
        """A hash of all token ids and where each prompt ends."""
        digest = hashlib.sha256()
        for array in (self._inputs, self._input_ends, self._responses, self._response_ends):
            digest.update(len(array).to_bytes(8, "little"))
            digest.update(array.tobytes())
        return digest.hexdigest()


class Subset:
    """Some rows of a `PromptTokens`, as a dataset of its own."""

    def __init__(self, prompts: PromptTokens, rows: np.ndarray) -> None:
        self.prompts, self.rows = prompts, rows
        self.lengths = prompts.lengths[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenRow:
        if index == EMPTY:
            return TokenRow(np.zeros(2, np.int32), 2)
        return self.prompts[int(self.rows[index])]


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A list column as one flat int32 array and the n + 1 offsets of its rows."""
    values = column.combine_chunks()
    lengths = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return values.flatten().to_numpy(zero_copy_only=False).astype(np.int32, copy=False), ends


class LengthGroupedOrder:
    """The order prompts are trained in: shuffled, with prompts of similar length in the same batch.

    A sampler of row numbers. The order depends on seed and epoch alone, so a restarted run continues the same one.
    `batch_size` is that of one optimiser step over all processes. Several processes need as many rows each: `filled`
    fills the last step with `EMPTY`, where accelerate would train the first rows twice.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, filled: bool = False) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self._empty = -len(lengths) % batch_size if filled else 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration orders."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) + self._empty

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        size = self.batch_size
        # The rest that fills no batch stays last, or it would shift every batch after it.
        whole = len(order) // size * size
        batches: list[np.ndarray] = []
        for group in np.split(order[:whole], range(_GROUPED_BATCHES * size, whole, _GROUPED_BATCHES * size)):
            group = group[np.argsort(self.lengths[group], kind="stable")]
            batches.extend(group.reshape(-1, size))
        shuffled = [batches[i] for i in random.permutation(len(batches))]
        yield from np.concatenate([*shuffled, order[whole:], np.full(self._empty, EMPTY)]).tolist()


def length_sorted_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Row numbers in batches of at most `batch_size`, longest first: memory runs out at once or never."""
    order = np.argsort(-lengths, kind="stable")
    return np.split(order, range(batch_size, len(order), batch_size)) if len(order) else []


def collate(rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
    """Pad rows on the left into tensors [batch, longest]: `input_ids`, `attention_mask`, `position_ids`, `labels`.

    `input_ids` holds input and response, padded with 0 behind the mask; position 0 is a row's first real token;
    `labels` are the response's token ids at their own places and IGNORED elsewhere.
    """
    import torch

    longest = max(len(row.ids) for row in rows)
    shape = (len(rows), longest)
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    for number, row in enumerate(rows):
        start = longest - len(row.ids)
        ids[number, start:] = row.ids
        mask[number, start:] = 1
        labels[number, start + row.response_start :] = row.ids[row.response_start :]
    arrays = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0),
        "labels": labels,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
