"""Small vectorised helpers over Arrow columns that several files of this folder need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def codes(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Number the distinct values in order of appearance (int32); null is -1."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return array.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)


def positions_in(values: pa.Array | pa.ChunkedArray, vocabulary: Sequence[str]) -> np.ndarray:
    """Return each string's position in `vocabulary` (int32); -1 where it is absent."""
    found = pc.index_in(values, value_set=pa.array(vocabulary, pa.string()))  # pyright: ignore[reportAttributeAccessIssue]
    return found.fill_null(-1).to_numpy()


def is_one_of(values: pa.Array | pa.ChunkedArray, *accepted: str) -> np.ndarray:
    """Return a boolean array: which of the strings are among `accepted`."""
    return positions_in(values, accepted) >= 0


def run_starts(columns: list[np.ndarray]) -> np.ndarray:
    """Return a boolean array, true where a run of rows with equal values in all columns begins."""
    starts = np.ones(len(columns[0]), bool)
    starts[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return starts
