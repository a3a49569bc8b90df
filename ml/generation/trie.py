"""Item codes as a prefix tree in flat arrays: which token may follow, and which item a finished code names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from ml.errors import BadInputError, HemlineError

ROOT = 0


class CodeTrie:
    """A prefix tree over token sequences.

    Nodes are numbered level by level and, inside a level, in the order of their codes, so that the children of a node
    are consecutive numbers: node `n` has the children `first_child[n] … first_child[n + 1] - 1`, `token[c]` is the
    token that leads to child `c` (ascending among siblings), and `item_index[n]` is the item a finished code names,
    -1 where the code goes on. Twelve bytes a node.
    """

    def __init__(self, first_child: np.ndarray, token: np.ndarray, item_index: np.ndarray, items: pa.Array) -> None:
        self._first_child = first_child
        self._token = token
        self._item_index = item_index
        self._items = items

    @classmethod
    def build(
        cls, codes: Sequence[Sequence[int]] | pa.Array | pa.ChunkedArray, item_ids: Sequence[str] | pa.Array
    ) -> CodeTrie:
        """Build the tree of `codes`, one list of token ids per item, in time and memory linear in their number.

        Raises BadInputError for a missing or empty code, a negative token, or as many codes as not items; HemlineError
        where two items have the same code or one code is the beginning of another: no answer could tell them apart.
        """
        tokens, lengths = _as_matrix(codes)
        items = _as_array(item_ids, pa.string(), "an item id")
        if len(items) != len(lengths):
            raise BadInputError(f"code trie: {len(lengths)} codes for {len(items)} items; expected one code per item")
        order = np.lexsort(tokens.T[::-1]) if len(lengths) else np.empty(0, dtype=np.int64)
        tokens, lengths = tokens[order], lengths[order]
        _refuse_ambiguous(tokens, lengths, items, order)
        return cls(*_levels(tokens, lengths, order), items)

    def __len__(self) -> int:
        """The number of items."""
        return len(self._items)

    @property
    def nodes(self) -> int:
        """The number of nodes, the root included."""
        return len(self._token)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, item ids included."""
        arrays = (self._first_child, self._token, self._item_index)
        return sum(array.nbytes for array in arrays) + self._items.nbytes

    @property
    def max_token(self) -> int:
        """The largest token id of any code, -1 if there is none."""
        return int(self._token.max())

    @cached_property
    def depth(self) -> int:
        """The length of the longest code."""
        depth, low, high = 0, 0, 1
        while high > low:
            low, high = int(self._first_child[low]), int(self._first_child[high])
            depth += high > low
        return depth

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the codes and the items they name: equal for equal sets, whatever their order."""
        digest = hashlib.blake2b(digest_size=16)
        leaves = self._item_index[self._item_index >= 0]
        for array in (self._first_child, self._token, self._item_index >= 0):
            digest.update(np.ascontiguousarray(array).tobytes())
        for start in range(0, len(leaves), 65_536):
            names = self._items.take(pa.array(leaves[start : start + 65_536])).to_pylist()
            digest.update("\0".join([*names, ""]).encode())
        return digest.hexdigest()

    def allowed(self, node: int) -> np.ndarray:
        """Return the token ids that may follow `node`, ascending; empty at a finished code."""
        return self._token[self._first_child[node] : self._first_child[node + 1]]

    def allowed_batch(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (row, token) index arrays: every token that may follow `nodes[row]`, row by row, tokens ascending."""
        rows, children = self.children_batch(nodes)
        return rows, self._token[children]

    def children_batch(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (row, child) index arrays: every child of `nodes[row]`, row by row, by token."""
        nodes = np.asarray(nodes, dtype=np.int64)
        first, counts = self._first_child[nodes].astype(np.int64), self._child_counts(nodes)
        rows = np.repeat(np.arange(len(nodes)), counts)
        offsets = np.concatenate(([0], np.cumsum(counts)[:-1])) if len(nodes) else counts
        return rows, np.arange(int(counts.sum())) + np.repeat(first - offsets, counts)

    def tokens(self, nodes: np.ndarray) -> np.ndarray:
        """Return the token that leads to each of `nodes`."""
        return self._token[nodes]

    def finished(self, nodes: np.ndarray) -> np.ndarray:
        """Return whether a code ends at each of `nodes`."""
        return self._item_index[nodes] >= 0

    def step(self, node: int, token: int) -> int:
        """Return the node that `token` leads to from `node`; HemlineError if no code goes on so."""
        low, high = int(self._first_child[node]), int(self._first_child[node + 1])
        child = low + int(np.searchsorted(self._token[low:high], token))
        if child == high or self._token[child] != token:
            raise HemlineError(f"code trie: token {token} does not follow node {node}; expected one of its children")
        return child

    def item(self, node: int) -> str | None:
        """Return the item whose code ends at `node`, or None where the code goes on."""
        index = int(self._item_index[node])
        return None if index < 0 else self._items[index].as_py()

    def _child_counts(self, nodes: np.ndarray) -> np.ndarray:
        return (self._first_child[nodes + 1] - self._first_child[nodes]).astype(np.int64)


def _as_array(values: Sequence | pa.Array | pa.ChunkedArray, kind: pa.DataType, what: str) -> pa.Array:
    array: Any = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, kind)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if array.null_count:
        raise BadInputError(f"code trie: {what} is null; expected one for every item")
    return array


def _as_matrix(codes: Sequence[Sequence[int]] | pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes as an int32 matrix [codes, longest], -1 behind each code's end, and their lengths."""
    lists: Any = _as_array(codes, pa.list_(pa.int32()), "a code")
    flat = _as_array(lists.flatten(), pa.int32(), "a code's token")
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    values = flat.to_numpy(zero_copy_only=False)
    negative = np.repeat(np.arange(len(lengths)), lengths)[values < 0]
    wrong = np.union1d(np.flatnonzero(lengths == 0), negative)
    if len(wrong):
        row = int(wrong[0])
        raise BadInputError(f"code trie: the code in row {row} is empty or has a negative token; expected token ids")
    matrix = np.full((len(lengths), int(lengths.max(initial=0))), -1, dtype=np.int32)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = values
    return matrix, lengths


def _refuse_ambiguous(tokens: np.ndarray, lengths: np.ndarray, items: pa.Array, order: np.ndarray) -> None:
    """Refuse a code that equals or begins another. In sorted order such a code begins its next neighbour too."""
    beyond = np.arange(tokens.shape[1]) >= lengths[:-1, None]
    begins = ((tokens[:-1] == tokens[1:]) | beyond).all(axis=1)
    if not begins.any():
        return
    row = int(np.flatnonzero(begins)[0])
    first, second = (items[int(order[i])].as_py() for i in (row, row + 1))
    what = "is the same as" if lengths[row] == lengths[row + 1] else "is the beginning of"
    raise HemlineError(
        f"code trie: the code {tokens[row, : lengths[row]].tolist()} of item {first!r} {what} that of item {second!r} "
        f"({int(begins.sum())} such codes); expected a prefix-free code per item: assign the item codes again"
    )


def _levels(tokens: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (first_child, token, item_index) of codes in sorted order, built one level at a time."""
    edge, item, counts = [np.array([-1])], [np.array([-1])], []
    parent = np.zeros(len(lengths), dtype=np.int64)
    differs = np.zeros(len(lengths), dtype=bool)
    differs[:1] = True
    parents = 1
    for level in range(tokens.shape[1]):
        column = tokens[:, level]
        differs[1:] |= column[1:] != column[:-1]
        inside = lengths > level
        opens = differs & inside
        rows = np.flatnonzero(opens)
        counts.append(np.bincount(parent[rows], minlength=parents))
        edge.append(column[rows])
        # Codes are prefix-free, so the node of a code's last token holds that one code.
        item.append(np.where(lengths[rows] == level + 1, order[rows], -1))
        parent, parents = np.cumsum(opens) - 1, len(rows)
    counts.append(np.zeros(parents, dtype=np.int64))
    first_child = np.concatenate(([1], 1 + np.cumsum(np.concatenate(counts)))).astype(np.int32)
    return first_child, np.concatenate(edge).astype(np.int32), np.concatenate(item).astype(np.int32)
