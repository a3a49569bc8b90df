"""Mixup: the list, the rank of a target in the full ranking, and retrieval for many users."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ml.retrieval import VectorIndex, mixup, mixup_rank, retrieve
from ml.settings import IndexSettings

ITEMS = st.sampled_from([f"i{n}" for n in range(12)])
LISTS = st.lists(ITEMS, max_size=15)
SCORES = st.sampled_from([-np.inf, 0.0, 0.25, 0.5, 1.0])


def test_the_first_n_come_from_the_id_list_and_the_others_from_the_title_list():
    got = mixup(["a", "b", "c"], ["b", "a", "d", "e"], n=1, k=3)
    assert got == [("a", "id"), ("b", "title"), ("d", "title")]


def test_a_short_list_is_filled_from_the_other():
    assert mixup([], ["x", "y"], 2, 3) == [("x", "title"), ("y", "title")]
    assert mixup(["a", "b", "c"], ["a"], 1, 3) == [("a", "id"), ("b", "id"), ("c", "id")]


@given(LISTS, LISTS, st.integers(0, 12), st.integers(0, 14))
def test_mixup_has_no_duplicates_is_as_long_as_it_can_be_and_starts_with_the_id_list(ids, titles, n, k):
    got = mixup(ids, titles, n, k)
    items = [item for item, _ in got]
    assert len(set(items)) == len(items) == min(k, len(set(ids) | set(titles)))
    head = list(dict.fromkeys(ids))[: min(n, k)]
    assert items[: len(head)] == head
    assert all(item in (ids if part == "id" else titles) for item, part in got)
    after = [item for item, part in got[len(head) :] if part == "title"]
    assert after == [t for t in dict.fromkeys(titles) if t not in head][: len(after)]


@given(st.integers(1, 15), st.integers(0, 16), st.integers(0, 2**32 - 1))
def test_without_ties_the_rank_is_the_place_in_the_list(count, n, seed):
    generator = np.random.default_rng(seed)
    id_scores, title_scores = generator.permutation(count).astype(float), generator.permutation(count).astype(float)
    ids = [str(i) for i in np.argsort(-id_scores)]
    titles = [str(i) for i in np.argsort(-title_scores)]
    full = [item for item, _ in mixup(ids, titles, n, count)]
    for target in range(count):
        assert mixup_rank(target, id_scores, title_scores, n) == full.index(str(target)) + 1


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=6), st.integers(0, 6))
def test_with_ties_the_rank_is_the_worst_that_any_order_of_equals_gives(scores, n):
    from itertools import permutations

    id_scores, title_scores = np.array(scores, dtype=float).T
    worst = np.zeros(len(scores), dtype=int)
    for order in permutations(range(len(scores))):
        ids = [str(i) for i in sorted(order, key=lambda i: -id_scores[i]) if id_scores[i] > -np.inf]
        for title_order in {tuple(order), tuple(reversed(order))}:
            titles = [str(i) for i in sorted(title_order, key=lambda i: -title_scores[i])]
            full = [item for item, _ in mixup(ids, titles, n, len(scores))]
            worst = np.maximum(worst, [full.index(str(t)) + 1 for t in range(len(scores))])
    for target in range(len(scores)):
        assert mixup_rank(target, id_scores, title_scores, n) >= worst[target]
    if len(set(id_scores)) == len(scores):
        assert [mixup_rank(t, id_scores, title_scores, n) for t in range(len(scores))] == worst.tolist()


def test_everything_tied_ranks_last():
    assert mixup_rank(3, np.zeros(10), np.zeros(10), 1) == 10


def test_an_item_the_id_model_does_not_know_ranks_by_its_title():
    id_scores = np.array([0.9, -np.inf, 0.1, 0.2])
    title_scores = np.array([0.8, 0.7, 0.9, 0.1])
    assert mixup_rank(1, id_scores, title_scores, 1) == 3
    assert mixup_rank(1, np.full(4, -np.inf), title_scores, 2) == 3


@pytest.fixture(scope="module")
def indexes():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((40, 8)).astype(np.float32)
    ids = [f"i{n}" for n in range(40)]
    # the id model knows fewer items, in another order
    id_index = VectorIndex.build(ids[29::-1], vectors[29::-1], IndexSettings())
    titles = generator.standard_normal((40, 6)).astype(np.float32)
    return id_index, VectorIndex.build(ids, titles, IndexSettings())


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.data())
def test_retrieve_is_the_mixup_of_what_is_allowed_and_not_excluded(indexes, data):
    id_index, title_index = indexes
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    users = data.draw(st.integers(0, 4))
    n, k = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 45))
    some_items = st.sets(st.sampled_from(title_index.ids))
    allowed = data.draw(st.none() | some_items)
    excluded = data.draw(st.none() | st.lists(some_items, min_size=users, max_size=users))
    id_queries = generator.standard_normal((users, 8)).astype(np.float32)
    title_queries = generator.standard_normal((users, 6)).astype(np.float32)
    got = retrieve(id_queries, title_queries, id_index, title_index, n, k, allowed, excluded)
    assert len(got) == users
    for user, rows in enumerate(got):
        out = excluded[user] if excluded else set()
        lists = []
        for index, queries in ((id_index, id_queries), (title_index, title_queries)):
            everything = index.search(queries[user : user + 1], 40)[0][0]
            lists.append([i for i in everything if i not in out and (allowed is None or i in allowed)])
        assert [(item, part) for item, part, _ in rows] == mixup(*lists, n, k)
        for item, part, score in rows:
            index, queries = (id_index, id_queries) if part == "id" else (title_index, title_queries)
            assert score == pytest.approx(float(index.vectors_of([item])[0] @ queries[user]), abs=1e-5)


def test_a_user_without_a_query_gets_the_other_list(indexes):
    id_index, title_index = indexes
    id_queries = np.stack([np.zeros(8), np.ones(8), np.zeros(8)]).astype(np.float32)
    title_queries = np.stack([np.ones(6), np.zeros(6), np.zeros(6)]).astype(np.float32)
    only_title, only_id, nothing = retrieve(id_queries, title_queries, id_index, title_index, 1, 5)
    assert [part for _, part, _ in only_title] == ["title"] * 5
    assert [part for _, part, _ in only_id] == ["id"] * 5
    assert nothing == []


def test_users_need_one_query_of_each_kind(indexes):
    with pytest.raises(ValueError, match="2 id queries and 3 title queries"):
        retrieve(np.ones((2, 8)), np.ones((3, 6)), *indexes, n=1, k=5)
