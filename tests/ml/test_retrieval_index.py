"""VectorIndex: exact answers, honest recall, masks and ties."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ml.errors import BadInputError, HemlineError
from ml.retrieval import VectorIndex
from ml.settings import IndexSettings

EXACT = IndexSettings()


def unit(count, dim, seed):
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def names(count):
    return [f"i{n:05}" for n in range(count)]


def expected(vectors, query, k, allowed):
    scores = vectors.astype(np.float64) @ query
    order = [r for r in np.lexsort((np.arange(len(scores)), -scores.round(6))) if allowed[r]]
    return order[:k]


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.data())
def test_exact_search_is_the_sorted_list_of_allowed_rows_with_earlier_rows_first_among_equals(data):
    rows = data.draw(st.integers(1, 30))
    # few different values: many equal vectors, and different vectors with equal scores
    values = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=2)
    vectors = np.array(data.draw(st.lists(values, min_size=rows, max_size=rows)), dtype=np.float32)
    query = np.array(data.draw(values), dtype=np.float32)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    k = data.draw(st.integers(0, 35))
    ids = names(rows)
    found, scores = VectorIndex.build(ids, vectors, EXACT).search(query[None], k, allowed)
    assert found[0] == [ids[r] for r in expected(vectors, query, k, allowed)]
    np.testing.assert_allclose(scores[0], [vectors[ids.index(i)] @ query for i in found[0]])


def test_exact_search_on_real_looking_vectors():
    vectors, queries = unit(2000, 24, 0), unit(50, 24, 1)
    index = VectorIndex.build(names(2000), vectors, EXACT)
    assert (index.kind, index.recall) == ("exact", 1.0)
    found, scores = index.search(queries, 10)
    for query, items, values in zip(queries, found, scores, strict=True):
        assert items == [f"i{r:05}" for r in expected(vectors, query, 10, np.ones(2000, bool))]
        assert (np.diff(values) <= 0).all()


@pytest.fixture(scope="module", params=["hnsw", "ivf"])
def approximate(request):
    vectors = unit(6000, 16, 2)
    vectors[5000:] = vectors[:1000]
    settings = IndexSettings(exact_below=100, kind=request.param, min_recall=0.9)
    return VectorIndex.build(names(6000), vectors, settings), vectors


def test_an_approximate_index_has_the_recall_it_says(approximate):
    index, vectors = approximate
    assert index.kind in {"hnsw", "ivf"}
    assert 0.9 <= index.recall <= 1
    queries = unit(100, 16, 3)
    found, _ = index.search(queries, 10)
    everything = np.ones(6000, bool)
    hits = [
        len(set(items) & {f"i{r:05}" for r in expected(vectors, query, 10, everything)})
        for query, items in zip(queries, found, strict=True)
    ]
    assert np.mean(hits) / 10 > 0.85


@pytest.mark.parametrize(("exact_below", "hnsw_below", "kind"), [(201, 1, "exact"), (1, 201, "hnsw"), (1, 200, "ivf")])
def test_the_size_says_which_index(exact_below, hnsw_below, kind):
    settings = IndexSettings(exact_below=exact_below, hnsw_below=hnsw_below, min_recall=0.5)
    assert VectorIndex.build(names(200), unit(200, 8, 0), settings).kind == kind


@pytest.mark.parametrize("share", [0.002, 0.05, 0.3, 0.9])
def test_a_mask_is_kept_exactly_and_lists_are_full(approximate, share):
    index, vectors = approximate
    allowed = np.random.default_rng(4).random(6000) < share
    queries = unit(20, 16, 5)
    found, _ = index.search(queries, 10, allowed)
    for query, items in zip(queries, found, strict=True):
        rows = [int(i[1:]) for i in items]
        assert allowed[rows].all()
        assert len(set(rows)) == min(10, allowed.sum())
        if share < 0.1:
            assert rows == expected(vectors, query, 10, allowed)


def test_nothing_allowed_gives_empty_lists():
    index = VectorIndex.build(names(3), unit(3, 4, 0), EXACT)
    found, scores = index.search(unit(2, 4, 1), 5, np.zeros(3, bool))
    assert found == [[], []]
    assert [len(s) for s in scores] == [0, 0]


def test_items_that_share_a_title_come_in_the_order_they_were_given():
    vectors = unit(4, 8, 0)
    ids = ["most popular", "z", "other", "a", "least popular"]
    shared = np.stack([vectors[0], vectors[0], vectors[1], vectors[0], vectors[0]])
    index = VectorIndex.build(ids, shared, EXACT)
    found, scores = index.search(vectors[:1], 3)
    assert found == [["most popular", "z", "a"]]
    assert len(set(scores[0].tolist())) == 1


@pytest.mark.parametrize("kind", ["exact", "hnsw", "ivf"])
def test_saved_and_loaded_it_answers_the_same(tmp_path, kind):
    vectors = unit(800, 12, 6)
    vectors[700:] = vectors[:100]
    settings = EXACT if kind == "exact" else IndexSettings(exact_below=100, kind=kind, min_recall=0.5)
    ids = [f"artículo {n}" for n in range(800)]
    index = VectorIndex.build(ids, vectors, settings)
    index.save(tmp_path)
    loaded = VectorIndex.load(tmp_path)
    assert (loaded.kind, loaded.recall, loaded.ids) == (kind, index.recall, ids)
    queries = unit(30, 12, 7)
    assert loaded.search(queries, 10)[0] == index.search(queries, 10)[0]
    asked = [ids[3], "unknown", ids[750]]
    np.testing.assert_array_equal(
        loaded.vectors_of(asked), np.stack([vectors[3], np.zeros(12, np.float32), vectors[750]])
    )
    assert loaded.vectors_of([]).shape == (0, 12)


def test_building_twice_gives_the_same_hnsw():
    vectors, queries = unit(3000, 16, 8), unit(50, 16, 9)
    settings = IndexSettings(exact_below=100, kind="hnsw", min_recall=0.5)
    first, second = (VectorIndex.build(names(3000), vectors, settings) for _ in range(2))
    assert first.search(queries, 10)[0] == second.search(queries, 10)[0]
    assert first.recall == second.recall


def test_a_recall_that_cannot_be_reached_is_refused():
    vectors = unit(20_000, 48, 10)
    settings = IndexSettings(exact_below=100, kind="ivf", min_recall=1.0)
    with pytest.raises(HemlineError, match=r"ivf reaches recall@10 0\.\d+ .*min_recall 1\.0"):
        VectorIndex.build(names(20_000), vectors, settings, queries=unit(100, 48, 11))


def test_mask_ignores_unknown_items():
    index = VectorIndex.build(["a", "b", "c"], unit(3, 4, 0), EXACT)
    assert index.mask({"c", "a", "x"}).tolist() == [True, False, True]
    assert index.mask([]).tolist() == [False] * 3


def test_bad_input_is_named(tmp_path):
    vectors = unit(3, 4, 0)
    with pytest.raises(BadInputError, match="one vector per id"):
        VectorIndex.build(["a", "b"], vectors, EXACT)
    with pytest.raises(BadInputError, match="at least one"):
        VectorIndex.build([], np.empty((0, 4)), EXACT)
    with pytest.raises(BadInputError, match="twice"):
        VectorIndex.build(["a", "b", "a"], vectors, EXACT)
    with pytest.raises(BadInputError, match="not finite"):
        VectorIndex.build(["a", "b", "c"], np.full((3, 4), np.nan), EXACT)
    with pytest.raises(BadInputError, match=r"index\.json: missing"):
        VectorIndex.load(tmp_path)
    VectorIndex.build(["a", "b", "c"], vectors, EXACT).save(tmp_path)
    (tmp_path / "index.faiss").write_bytes(b"nonsense")
    with pytest.raises(BadInputError, match="not a saved index"):
        VectorIndex.load(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps([1]))
    with pytest.raises(BadInputError, match="format is 'list'"):
        VectorIndex.load(tmp_path)
