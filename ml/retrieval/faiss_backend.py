"""The faiss calls behind `index`: building flat, HNSW and IVF indexes, searching them, and measuring their recall."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from ml.errors import HemlineError

faiss: Any = import_module("faiss")
"""Untyped: faiss replaces its C++ signatures when it is imported, so a type checker sees the wrong ones."""

HNSW_NEIGHBOURS, HNSW_CONSTRUCTION = 32, 80
START_EFFORT = {"hnsw": 64, "ivf": 8}
EFFORTS = (1, 4, 16)
"""Multiples of the starting efSearch (HNSW) or nprobe (IVF) that are tried until the recall is reached."""
RECALL_K = 10
_TRAINING_VECTORS_PER_LIST = 64


def build_flat(vectors: np.ndarray) -> Any:
    """Return an exact inner-product index of float32 `vectors` [n, dim]."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def build_approximate(vectors: np.ndarray, kind: str) -> Any:
    """Return an HNSW or IVF inner-product index.

    HNSW is built on one thread: with several, the order of insertion and so the graph differ from run to run.
    """
    count, dim = vectors.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_CONSTRUCTION
        with _threads(1):
            index.add(vectors)
        return index
    lists = max(1, min(int(4 * count**0.5), count // 39))
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFFlat(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 0
    index.cp.max_points_per_centroid = _TRAINING_VECTORS_PER_LIST
    index.train(vectors)
    index.add(vectors)
    index.make_direct_map()
    return index


def reach_recall(
    index: Any,
    vectors: np.ndarray,
    queries: np.ndarray,
    kind: str,
    min_recall: float,
) -> float:
    """Raise the search effort until recall@10 on `queries` reaches `min_recall`; return the recall.

    A found vector counts if it scores at least as high as the tenth of the exact search. Raises `HemlineError` when
    the largest effort does not reach it.
    """
    k = min(RECALL_K, len(vectors))
    exact = search(build_flat(vectors), queries, k)[0][:, -1:]
    recall = 0.0
    for effort in EFFORTS:
        set_effort(index, kind, START_EFFORT[kind] * effort)
        recall = float((search(index, queries, k)[0] >= exact - 1e-6).mean())
        if recall >= min_recall:
            return recall
    raise HemlineError(
        f"index: {kind} reaches recall@{k} {recall:.3f} at its largest effort, below index.min_recall {min_recall}; "
        f"try the other index.kind, or raise index.exact_below above {len(vectors)}"
    )


def set_effort(index: Any, kind: str, effort: int) -> None:
    """Set how much of an approximate index a search visits."""
    if kind == "hnsw":
        index.hnsw.efSearch = effort
    else:
        index.nprobe = min(effort, index.nlist)


def effort_of(index: Any, kind: str) -> int | None:
    """Return what `set_effort` set; None for an exact index."""
    return {"hnsw": lambda: index.hnsw.efSearch, "ivf": lambda: index.nprobe}.get(kind, lambda: None)()


def search(
    index: Any,
    queries: np.ndarray,
    k: int,
    usable: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and vector numbers [m, k], best first; -1 where fewer were found. `usable` [n] masks vectors."""
    if usable is None:
        return index.search(queries, k)
    parameters: dict[str, Any] = {"sel": _selector(usable)}
    if isinstance(index, faiss.IndexHNSW):
        return index.search(queries, k, params=faiss.SearchParametersHNSW(efSearch=index.hnsw.efSearch, **parameters))
    if isinstance(index, faiss.IndexIVF):
        return index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=index.nprobe, **parameters))
    return index.search(queries, k, params=faiss.SearchParameters(**parameters))


def search_exactly(
    index: Any,
    queries: np.ndarray,
    k: int,
    usable: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what an exact search of an approximate index's usable vectors finds."""
    if isinstance(index, faiss.IndexHNSW):
        return search(faiss.downcast_index(index.storage), queries, k, usable)
    parameters = faiss.SearchParametersIVF(sel=_selector(usable), nprobe=index.nlist)
    return index.search(queries, k, params=parameters)


def flat_scores(index: Any, query: np.ndarray) -> np.ndarray:
    """Return the inner products [n] of `query` [dim] with every vector of a flat index."""
    vectors = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
    return vectors @ query


def _selector(usable: np.ndarray) -> Any:
    return faiss.IDSelectorBitmap(np.packbits(usable, bitorder="little"))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
