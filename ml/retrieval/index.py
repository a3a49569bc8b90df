"""Nearest-neighbour search over item vectors by inner product (faiss): exact, or approximate with measured recall."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ml.errors import BadInputError
from ml.retrieval import faiss_backend
from ml.retrieval.files import read_description
from ml.settings import IndexSettings

FORMAT = "hemline-index-1"
_SAMPLE = 200
_NARROW = 0.1
"""A mask that leaves a smaller share of an approximate index is searched exactly: cheap, and the graph would miss."""


class VectorIndex:
    """Items by vector.

    Rows are searched by inner product, best first. Items with identical vectors (titles that several items share) are
    kept as one vector, so they have exactly equal scores; on equal scores the earlier row wins, so give `build` the
    ids in the order that ties should have (popularity as of the day, then id).

    Attributes:
        ids: item ids by row.
        kind: exact, hnsw or ivf.
        recall: recall@10 against exact search, measured when the index was built; 1.0 if exact.
    """

    def __init__(self, ids: Sequence[str], row_vector: np.ndarray, faiss_index: Any, kind: str, recall: float) -> None:
        """Use `build` or `load`. `row_vector` [rows]: the vector number of each row in `faiss_index`."""
        self.ids = list(ids)
        self.kind = kind
        self.recall = recall
        self._row_vector = row_vector
        self._faiss = faiss_index
        self._rows = np.argsort(row_vector, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(row_vector, minlength=faiss_index.ntotal))])

    @classmethod
    def build(
        cls, ids: Sequence[str], vectors: np.ndarray, settings: IndexSettings, queries: np.ndarray | None = None
    ) -> VectorIndex:
        """Index unit `vectors` [n, dim] under `ids` [n].

        Fewer than `exact_below` rows are searched exactly. Others get the set kind (by default HNSW below `hnsw_below`
        rows, IVF from there), whose recall@10 is measured on
        `queries` (default: a sample of the vectors); while it is below `min_recall` more effort is spent per search,
        and `HemlineError` is raised when that does not help either. Raises `BadInputError` for repeated ids, no rows,
        or vectors that are not finite.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if not len(ids) or vectors.ndim != 2 or len(vectors) != len(ids):
            raise BadInputError(f"index: expected one vector per id and at least one, got {vectors.shape}, {len(ids)}")
        if len(set(ids)) != len(ids):
            raise BadInputError("index: an item id occurs twice")
        if not np.isfinite(vectors).all():
            raise BadInputError("index: a vector is not finite")
        distinct, row_vector = _distinct(vectors)
        if len(ids) < settings.exact_below:
            return cls(ids, row_vector, faiss_backend.build_flat(distinct), "exact", 1.0)
        kind = settings.kind
        if kind == "by_size":
            kind = "hnsw" if len(ids) < settings.hnsw_below else "ivf"
        index = faiss_backend.build_approximate(distinct, kind)
        if queries is None:
            queries = _between(distinct)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        recall = faiss_backend.reach_recall(index, distinct, queries, kind, settings.min_recall)
        return cls(ids, row_vector, index, kind, recall)

    def search(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[list[list[str]], list[np.ndarray]]:
        """Return the best `k` items of each query [m, dim] and their scores (float32), best first.

        `allowed` [rows]: boolean, by row (see `mask`); only allowed rows are returned. Lists are shorter than `k` only
        where fewer rows are allowed. A mask that leaves less than a tenth of an approximate index is searched exactly.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        rows = allowed if allowed is not None else np.ones(len(self.ids), dtype=bool)
        usable = np.zeros(self._faiss.ntotal, dtype=bool)
        usable[self._row_vector[rows]] = True
        # one more than wanted shows whether a tie is cut
        wanted = min(k + 1, int(usable.sum()))
        if not wanted or not len(queries) or k < 1:
            return [[] for _ in queries], [np.empty(0, np.float32) for _ in queries]
        scores, numbers = self._search_vectors(queries, wanted, None if usable.all() else usable)
        items, values = [], []
        for query, row_scores, row_numbers in zip(queries, scores, numbers, strict=True):
            if self.kind == "exact" and wanted > k and row_scores[k] == row_scores[k - 1]:
                row_scores, row_numbers = self._with_ties(query, k, usable)
            found, found_scores = self._expand(row_scores, row_numbers, rows, k)
            items.append([self.ids[r] for r in found])
            values.append(found_scores)
        return items, values

    def mask(self, item_ids: Collection[str]) -> np.ndarray:
        """Return the boolean row mask of `item_ids`; unknown ids are ignored."""
        result = np.zeros(len(self.ids), dtype=bool)
        result[[self._row_of[i] for i in item_ids if i in self._row_of]] = True
        return result

    def vectors_of(self, item_ids: Sequence[str]) -> np.ndarray:
        """Return float32 [n, dim] vectors of `item_ids`; unknown items get rows of zeros."""
        result = np.zeros((len(item_ids), self._faiss.d), dtype=np.float32)
        known = [(i, self._row_of[item]) for i, item in enumerate(item_ids) if item in self._row_of]
        if known:
            places, rows = np.array(known).T
            result[places] = self._faiss.reconstruct_batch(self._row_vector[rows].astype(np.int64))
        return result

    def save(self, folder: Path) -> None:
        """Write `index.faiss`, `index.arrow` (ids and vector numbers) and `index.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        faiss_backend.faiss.write_index(self._faiss, str(folder / "index.faiss"))
        table = pa.table({"item_id": pa.array(self.ids, pa.string()), "vector": pa.array(self._row_vector, pa.int64())})
        with pa.ipc.new_file(str(folder / "index.arrow"), table.schema) as writer:
            writer.write_table(table)
        description = {
            "format": FORMAT,
            "kind": self.kind,
            "recall": self.recall,
            "effort": faiss_backend.effort_of(self._faiss, self.kind),
        }
        (folder / "index.json").write_text(json.dumps(description), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> VectorIndex:
        """Read what `save` wrote; raises `BadInputError` naming the file if it is anything else."""
        description = read_description(folder, "index.json", FORMAT)
        try:
            with pa.OSFile(str(folder / "index.arrow")) as source:
                table = pa.ipc.open_file(source).read_all()
            ids = table.column("item_id").to_pylist()
            row_vector = table.column("vector").to_numpy()
            index = faiss_backend.faiss.read_index(str(folder / "index.faiss"))
        except (OSError, pa.ArrowException, KeyError, RuntimeError) as error:
            raise BadInputError(f"{folder}: not a saved index ({error}); build it again") from error
        if len(ids) == 0 or row_vector.min() < 0 or row_vector.max() >= index.ntotal:
            raise BadInputError(f"{folder}: index.arrow does not fit index.faiss; build the index again")
        if description["kind"] != "exact":
            faiss_backend.set_effort(index, description["kind"], int(description["effort"]))
        return cls(ids, row_vector, index, description["kind"], float(description["recall"]))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.ids)}

    def _search_vectors(self, queries: np.ndarray, k: int, usable: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if self.kind == "exact" or usable is None:
            return faiss_backend.search(self._faiss, queries, k, usable)
        if usable.mean() < _NARROW:
            return faiss_backend.search_exactly(self._faiss, queries, k, usable)
        scores, numbers = faiss_backend.search(self._faiss, queries, k, usable)
        short = np.flatnonzero((numbers < 0).any(axis=1))
        if len(short):
            scores[short], numbers[short] = faiss_backend.search_exactly(self._faiss, queries[short], k, usable)
        return scores, numbers

    def _with_ties(self, query: np.ndarray, k: int, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all usable vectors that score like the `k`-th or better: which of them are first is for us to say."""
        scores = np.where(usable, faiss_backend.flat_scores(self._faiss, query), -np.inf)
        numbers = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        return scores[numbers], numbers

    def _expand(
        self, scores: np.ndarray, numbers: np.ndarray, rows: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best `k` allowed rows that have these vectors, by score, then by row."""
        found = [self._rows[self._starts[v] : self._starts[v + 1]] for v in numbers if v >= 0]
        found_rows = np.concatenate(found)
        found_scores = np.repeat(scores[numbers >= 0], [len(f) for f in found])
        keep = rows[found_rows]
        found_rows, found_scores = found_rows[keep], found_scores[keep]
        order = np.lexsort((found_rows, -found_scores))[:k]
        return found_rows[order], found_scores[order]


def _between(vectors: np.ndarray) -> np.ndarray:
    """Return queries to measure recall with: sums of two vectors, as no real query lies on an item."""
    generator = np.random.default_rng(0)
    pairs = generator.integers(len(vectors), size=(min(_SAMPLE, len(vectors)), 2))
    sums = vectors[pairs[:, 0]] + vectors[pairs[:, 1]]
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)


def _distinct(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different vectors in order of first row, and each row's vector number."""
    vectors = vectors + np.float32(0)  # minus zero becomes zero: equal numbers get equal bytes
    as_bytes = vectors.view(np.dtype((np.void, vectors.itemsize * vectors.shape[1]))).ravel()
    _, first, inverse = np.unique(as_bytes, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return vectors[first[order]], number[inverse]
