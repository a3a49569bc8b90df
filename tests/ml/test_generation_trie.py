"""The code trie against a plain dictionary of prefixes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError, HemlineError
from ml.generation import CodeTrie


def _prefix_free(codes):
    """Keep the codes that neither equal nor begin nor continue one kept before."""
    kept = []
    for code in map(tuple, codes):
        if all(code[: len(other)] != other and other[: len(code)] != code for other in kept):
            kept.append(code)
    return kept


prefix_free_codes = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), max_size=60).map(_prefix_free)


@settings(max_examples=150, deadline=None)
@given(prefix_free_codes)
def test_trie_is_the_set_of_its_codes(codes):
    ids = [f"item {i}" for i in range(len(codes))]
    trie = CodeTrie.build(codes, ids)
    follow = {}
    for code in codes:
        for i in range(len(code)):
            follow.setdefault(code[:i], set()).add(code[i])
    nodes = {(): 0}
    for prefix in sorted({code[:i] for code in codes for i in range(1, len(code) + 1)}, key=len):
        nodes[prefix] = trie.step(nodes[prefix[:-1]], prefix[-1])
    assert len(nodes) == trie.nodes
    for prefix, node in nodes.items():
        assert trie.allowed(node).tolist() == sorted(follow.get(prefix, ()))
        assert trie.item(node) == (ids[codes.index(prefix)] if prefix in codes else None)
    rows, tokens = trie.allowed_batch(np.array(list(nodes.values())))
    expected = [(row, token) for row, prefix in enumerate(nodes) for token in sorted(follow.get(prefix, ()))]
    assert list(zip(rows.tolist(), tokens.tolist(), strict=True)) == expected
    assert trie.depth == max(map(len, codes), default=0)
    assert trie.max_token == max((max(code) for code in codes), default=-1)


def test_order_of_the_codes_does_not_matter():
    codes, ids = [[5, 1], [4], [5, 2, 3]], ["a", "b", "c"]
    forward, backward = CodeTrie.build(codes, ids), CodeTrie.build(codes[::-1], ids[::-1])
    assert forward.fingerprint == backward.fingerprint
    assert forward.item(forward.step(0, 4)) == backward.item(backward.step(0, 4)) == "b"
    assert CodeTrie.build(codes, ["a", "c", "b"]).fingerprint != forward.fingerprint
    assert CodeTrie.build([[5, 1], [4], [5, 2, 4]], ids).fingerprint != forward.fingerprint


@pytest.mark.parametrize("codes", [[[1, 2], [3], [1, 2]], [[1, 2], [3], [1, 2, 3]], [[1], [0, 5], [1, 2, 3, 4]]])
def test_an_ambiguous_code_is_refused_and_named(codes):
    with pytest.raises(HemlineError, match=r"\[1.*item 'x'.*item 'z'"):
        CodeTrie.build(codes, ["x", "y", "z"])


@pytest.mark.parametrize("codes", [[[1], []], [[1], [2, -3]], [[1], None], [[1], [2, None]]])
def test_a_code_that_is_none_is_refused(codes):
    with pytest.raises(BadInputError, match="code"):
        CodeTrie.build(pa.array(codes, pa.list_(pa.int32())), ["x", "y"])


def test_one_code_per_item():
    with pytest.raises(BadInputError, match="2 codes for 1 items"):
        CodeTrie.build([[1], [2]], ["x"])


def test_a_token_that_does_not_follow_is_refused():
    trie = CodeTrie.build([[1, 2], [3, 4]], ["x", "y"])
    for node, token in [(0, 2), (0, 9), (trie.step(0, 1), 4)]:
        with pytest.raises(HemlineError, match=f"token {token} does not follow"):
            trie.step(node, token)


def test_empty():
    trie = CodeTrie.build([], [])
    assert len(trie) == 0
    assert trie.allowed(0).tolist() == []
    assert trie.allowed_batch(np.array([0, 0]))[1].tolist() == []


def test_arrow_columns_and_linear_memory():
    numbers = np.arange(1_400_000)  # as many items as the paper's largest catalogue
    flat = np.stack([numbers // 12_500, numbers // 100 % 125, numbers % 100], axis=1).ravel()
    codes = pa.chunked_array(
        [pa.ListArray.from_arrays(np.arange(0, 4_200_001, 3, dtype=np.int32), flat.astype(np.int32))]
    )
    ids = pa.chunked_array([pa.array([f"{n:07}" for n in numbers])]).slice(0)
    trie = CodeTrie.build(codes.slice(10), ids.slice(10))
    node = 0
    for token in (111, 124, 7):
        node = trie.step(node, token)
    assert trie.item(node) == f"{111 * 12_500 + 124 * 100 + 7:07}"
    assert trie.nbytes < 50 * len(trie)
