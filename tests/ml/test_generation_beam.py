"""Beam search over item codes: with room for every code it is the exact ranking of all items by likelihood."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ml.generation import CodeTrie, generate
from ml.settings import GenerationSettings
from tests.ml.generation_models import FORMAT, byte_tokenizer, one_thread, random_trie, slow_greedy, tiny_model

INSTRUCTION = list(b"Recommend the next item.\n")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


def _inputs(rows, seed=1):
    generator = np.random.default_rng(seed)
    return [INSTRUCTION + generator.integers(0, 256, generator.integers(1, 30)).tolist() for _ in range(rows)]


def _answers(model, inputs, trie, **options):
    settings = GenerationSettings(**({"max_new_tokens": 16, "batch_size": 4} | options))
    keys = [str(i) for i in range(len(inputs))]
    return generate(model, byte_tokenizer(), inputs, INSTRUCTION, trie, FORMAT, settings, keys)


@torch.no_grad()
def _likelihoods(model, ids, codes):
    """Every code's log-probability, one whole text at a time."""
    result = []
    for code in codes:
        log_probabilities = torch.log_softmax(model(torch.tensor([[*ids, *code]])).logits[0].double(), dim=-1)
        result.append(sum(float(log_probabilities[len(ids) + i - 1, token]) for i, token in enumerate(code)))
    return result


@pytest.mark.parametrize("family", ["llama", "falcon", "gpt_neox"])
def test_a_wide_beam_ranks_every_item_exactly(family, monkeypatch):
    monkeypatch.setattr("ml.generation.batch.BEAM_ROWS", 70)  # one prompt at a time, then two
    model, (trie, codes) = tiny_model(family), random_trie(np.random.default_rng(3), items=20)
    inputs = _inputs(5)
    for beams in (64, 32):
        answers = _answers(model, inputs, trie, beams=beams, candidates=1000)
        for ids, answer in zip(inputs, answers, strict=True):
            expected = _likelihoods(model, ids, codes)
            order = sorted(range(len(codes)), key=lambda i: -expected[i])
            assert [item for item, _ in answer.candidates] == [f"item-{i}" for i in order]
            found = [value for _, value in answer.candidates]
            assert found == pytest.approx(sorted(expected, reverse=True), abs=1e-3)
            assert (answer.item_id, answer.log_probability) == answer.candidates[0]


def test_a_beam_finds_what_greedy_misses():
    """The likeliest first token can lead to unlikely items only."""
    model, (trie, _) = tiny_model("llama"), random_trie(np.random.default_rng(5))
    inputs = _inputs(30)
    greedy = _answers(model, inputs, trie, beams=1)
    searched = _answers(model, inputs, trie, beams=8, candidates=5)
    assert all(not answer.candidates for answer in greedy)
    assert all(1 <= len(answer.candidates) <= 5 for answer in searched)
    gained = [s.log_probability - g.log_probability for s, g in zip(searched, greedy, strict=True)]
    assert min(gained) > -1e-3
    assert max(gained) > 0.1


def test_the_title_follows_the_best_item():
    """What is written behind a forced code equals what a slow writer puts behind it."""
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    trie, codes = random_trie(np.random.default_rng(3), items=20)
    inputs = _inputs(6)
    for ids, answer in zip(inputs, _answers(model, inputs, trie, beams=8), strict=True):
        code = codes[int(answer.item_id.removeprefix("item-"))]
        alone = slow_greedy(model, tokenizer, ids, CodeTrie.build([code], [answer.item_id]), 16)
        assert answer.title == alone.title


def test_fails_closed():
    model, (trie, _) = tiny_model("llama"), random_trie(np.random.default_rng(3))
    with torch.no_grad():
        model.lm_head.weight[:] = torch.nan
    for answer in _answers(model, _inputs(3), trie, beams=4):
        assert (answer.item_id, answer.title, answer.parsed, answer.candidates) == (None, "", False, ())


def test_a_beam_does_not_sample():
    with pytest.raises(ValidationError, match=r"generation.beams"):
        GenerationSettings(beams=4, temperature=0.5)
