"""Constrained generation: fast equals slow, items always exist, noise belongs to the row, failures are closed."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError
from ml.generation import CodeTrie, Generated, generate
from ml.generation.decoding import _batches, instruction_cache
from ml.settings import GenerationSettings
from tests.ml.generation_models import (
    END,
    FAMILIES,
    FORMAT,
    START,
    VOCABULARY,
    byte_tokenizer,
    one_thread,
    random_trie,
    slow_greedy,
    tiny_model,
)

FAILED = Generated(None, "", None, False)
INSTRUCTION = list(b"Recommend the next item.\n")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def _inputs(generator, rows, longest=30):
    return [INSTRUCTION + generator.integers(0, 256, generator.integers(1, longest)).tolist() for _ in range(rows)]


def _answers(model, tokenizer, inputs, trie, keys=None, instruction=None, **options):
    options = {"max_new_tokens": 16, "batch_size": 4, "beams": 1} | options
    keys = [str(i) for i in range(len(inputs))] if keys is None else keys
    instruction = INSTRUCTION if instruction is None else instruction
    return generate(model, tokenizer, inputs, instruction, trie, FORMAT, GenerationSettings(**options), keys)


def _same(ours, others):
    assert [(a.item_id, a.title, a.parsed) for a in ours] == [(b.item_id, b.title, b.parsed) for b in others]
    for a, b in zip(ours, others, strict=True):
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_and_batches_change_nothing(family, tokenizer, monkeypatch):
    generator = np.random.default_rng(1)
    model, (trie, _) = tiny_model(family), random_trie(generator)
    inputs = _inputs(generator, 13)
    slow = [slow_greedy(model, tokenizer, ids, trie, 16) for ids in inputs]
    assert len({(answer.item_id, answer.title) for answer in slow}) > 5
    _same(_answers(model, tokenizer, inputs, trie), slow)
    _same(_answers(model, tokenizer, inputs, trie, instruction=[], batch_size=1), slow)
    _same(_answers(model, tokenizer, inputs, trie, batch_size=13), slow)
    for tokens in (1, 70):  # prompts that are read in parts: one by one, then two or three of different lengths
        monkeypatch.setattr("ml.generation.batch.CPU_PROMPT_TOKENS", tokens)
        _same(_answers(model, tokenizer, inputs, trie, batch_size=13), slow)


def test_rows_end_at_different_times(llama, tokenizer):
    """With a likelier end token some titles are short, so that rows leave and others take their places."""
    generator = np.random.default_rng(2)
    model, (trie, _) = tiny_model("llama", seed=3), random_trie(generator)
    with torch.no_grad():
        model.lm_head.weight[END] = model.lm_head.weight[:256].mean(0) + 1.5 * model.lm_head.weight[7]
    inputs = _inputs(generator, 24)
    answers = _answers(model, tokenizer, inputs, trie, batch_size=12, max_new_tokens=24)
    lengths = Counter(len(answer.title) for answer in answers)
    assert len(lengths) > 4, lengths
    _same(answers, [slow_greedy(model, tokenizer, ids, trie, 24) for ids in inputs])


def test_instruction_is_read_once(llama, tokenizer):
    read = []
    handle = llama.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    try:
        inputs = [INSTRUCTION + [i] * 3 for i in range(12)]
        _answers(llama, tokenizer, inputs, random_trie(np.random.default_rng(0))[0])
    finally:
        handle.remove()
    assert read[0] == (1, len(INSTRUCTION) - 1)
    assert [shape for shape in read[1:] if shape[1] > 3] == [(4, 4)] * 3  # the instruction's last token and the row


def test_an_input_may_be_the_instruction_alone(llama, tokenizer):
    trie, _ = random_trie(np.random.default_rng(0))
    inputs = [INSTRUCTION, [*INSTRUCTION, 1, 2, 3], INSTRUCTION]
    _same(_answers(llama, tokenizer, inputs, trie), [slow_greedy(llama, tokenizer, ids, trie, 16) for ids in inputs])


def test_adapter_is_used(tokenizer):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    generator = np.random.default_rng(5)
    trie, _ = random_trie(generator)
    inputs = _inputs(generator, 6)
    answers = _answers(model, tokenizer, inputs, trie)
    assert model.training  # as it was; dropout is off inside
    merged = model.merge_and_unload().eval()
    _same(answers, [slow_greedy(merged, tokenizer, ids, trie, 16) for ids in inputs])


@pytest.mark.parametrize("options", [{"temperature": 1.0, "top_p": 0.9}, {"temperature": 0.7, "top_p": 1.0}])
def test_a_draw_belongs_to_its_row(llama, tokenizer, options):
    generator = np.random.default_rng(4)
    trie, _ = random_trie(generator)
    inputs, keys = _inputs(generator, 16), [f"user {i}" for i in range(16)]
    alone = _answers(llama, tokenizer, inputs, trie, keys, batch_size=1, **options)
    together = _answers(llama, tokenizer, inputs, trie, keys, batch_size=16, **options)
    _same(alone, together)
    order = generator.permutation(16)
    shuffled = _answers(
        llama, tokenizer, [inputs[i] for i in order], trie, [keys[i] for i in order], batch_size=5, **options
    )
    _same(shuffled, [alone[i] for i in order])
    other_seed = _answers(llama, tokenizer, inputs, trie, keys, seed=1, **options)
    other_keys = _answers(llama, tokenizer, inputs, trie, keys[::-1], **options)
    assert len({tuple(a.title for a in answers) for answers in (alone, other_seed, other_keys)}) == 3


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_masks_come_before_temperature_and_nucleus(llama, tokenizer, temperature):
    """Two unlikely codes are drawn in proportion to their own softmax; a nucleus over all tokens would hold neither."""
    ids = [*INSTRUCTION, 1, 2, 3]
    with torch.inference_mode():
        logits = llama(torch.tensor([ids])).logits[0, -1].double()
    unlikely = logits.argsort()[40:60].tolist()
    first, second = unlikely[0], next(t for t in unlikely if logits[t] - logits[unlikely[0]] > 0.1)
    trie = CodeTrie.build([[first], [second]], ["first", "second"])
    draws = 400

    def share(top_p):
        keys = [str(i) for i in range(draws)]
        options = {"temperature": temperature, "top_p": top_p, "max_new_tokens": 1, "batch_size": draws}
        answers = _answers(llama, tokenizer, [ids] * draws, trie, keys, **options)
        assert all(a.title == "" for a in answers)
        return sum(answer.item_id == "second" for answer in answers) / draws

    expected = 1 / (1 + math.exp(float(logits[first] - logits[second]) / temperature))
    assert abs(share(1.0) - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)
    assert share(0.3) == 1.0


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(FAMILIES), st.sampled_from([0.0, 0.05, 3.0]), st.integers(1, 60))
def test_item_is_always_one_of_the_tries(seed, family, temperature, items):
    generator = np.random.default_rng(seed)
    trie, codes = random_trie(generator, items)
    inputs = _inputs(generator, 5, longest=6)
    model = tiny_model(family, seed % 7)
    answers = _answers(model, byte_tokenizer(), inputs, trie, temperature=temperature, max_new_tokens=6)
    assert all(a.parsed and a.log_probability <= 0 for a in answers)
    assert {a.item_id for a in answers} <= {f"item-{i}" for i in range(len(codes))}


def test_at_most_max_new_tokens(llama, tokenizer):
    trie = CodeTrie.build([[1, 2, 3]], ["x"])
    inputs = [[*INSTRUCTION, 65, i] for i in range(6)]
    for limit, longest in [(3, 0), (5, 0), (6, 1), (9, 4)]:
        answers = _answers(llama, tokenizer, inputs, trie, max_new_tokens=limit)
        assert max(len(a.title) for a in answers) <= longest
        assert {a.item_id for a in answers} == {"x"}
    with pytest.raises(BadInputError, match="max_new_tokens is 2; expected at least 3"):
        _answers(llama, tokenizer, inputs, trie, max_new_tokens=2)


def test_ties_go_to_the_smallest_token(tokenizer):
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    answers = _answers(model, tokenizer, [[*INSTRUCTION, 9]], CodeTrie.build([[70], [30], [50]], ["c", "a", "b"]))
    assert answers[0].item_id == "a"
    assert answers[0].log_probability == pytest.approx(-math.log(VOCABULARY), abs=1e-4)


def test_titles_hold_no_control_tokens(tokenizer):
    model = tiny_model("llama")
    with torch.no_grad():  # the model now wants nothing but control tokens and rows that no token has
        model.lm_head.weight[[START, *range(258, VOCABULARY)]] += 40 * model.lm_head.weight[:256].abs().mean(0)
    answers = _answers(model, tokenizer, _inputs(np.random.default_rng(0), 8), CodeTrie.build([[1]], ["x"]))
    assert all("<|" not in a.title and a.parsed for a in answers)
    assert any(a.title for a in answers)


def test_control_tokens_in_a_prompt_are_only_tokens(llama, tokenizer):
    trie, _ = random_trie(np.random.default_rng(0))
    odd = [[END], [START, END, END], [65, END, 66, END], [END] * 20, [0], [258] * 3]
    inputs = [INSTRUCTION + ids for ids in odd]
    answers = _answers(llama, tokenizer, inputs, trie, batch_size=6)
    _same(answers, [slow_greedy(llama, tokenizer, ids, trie, 16) for ids in inputs])


def test_no_available_item_fails_closed(llama, tokenizer):
    assert _answers(llama, tokenizer, [[*INSTRUCTION, 1]] * 3, CodeTrie.build([], [])) == [FAILED] * 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_with_nan_fails_closed_and_alone(tokenizer, temperature):
    model, trie = tiny_model("llama"), CodeTrie.build([[1], [2], [0]], ["x", "y", "z"])
    inputs = [[*INSTRUCTION, 200 + i] for i in range(5)]
    sound = _answers(model, tokenizer, inputs, trie, temperature=temperature)
    with torch.no_grad():
        model.model.embed_tokens.weight[202] = torch.nan
    answers = _answers(model, tokenizer, inputs, trie, temperature=temperature)
    assert answers[2] == FAILED
    assert answers[:2] + answers[3:] == sound[:2] + sound[3:]


def test_codes_that_the_model_rules_out_fail_closed(tokenizer):
    model = tiny_model("llama")
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY).index_fill(0, torch.tensor([1, 2]), -torch.inf))
    assert _answers(model, tokenizer, [[*INSTRUCTION, 5]], CodeTrie.build([[1], [2]], ["x", "y"])) == [FAILED]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "input 1 is empty"),
        (INSTRUCTION[:-1], "does not start with the instruction"),
        ([0, *INSTRUCTION], "does not start with the instruction"),
        ([*INSTRUCTION, VOCABULARY], "outside 0..271"),
        (INSTRUCTION * 90, "positions"),
    ],
)
def test_a_wrong_input_is_named(llama, tokenizer, ids, message):
    with pytest.raises(BadInputError, match=message):
        _answers(llama, tokenizer, [[*INSTRUCTION, 5], ids], CodeTrie.build([[1]], ["x"]))


def test_codes_of_another_tokenizer_are_refused(llama, tokenizer):
    with pytest.raises(BadInputError, match="token id 5000"):
        _answers(llama, tokenizer, [[*INSTRUCTION, 5]], CodeTrie.build([[5000]], ["x"]))


def test_models_without_plain_attention_are_refused(tokenizer):
    from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

    trie = CodeTrie.build([[1], [2, 3]], ["x", "y"])
    mamba = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(BadInputError, match="mamba"):
        _answers(mamba, tokenizer, [[*INSTRUCTION, 5]], trie)
    config = MistralConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=64, initializer_range=0.25, eos_token_id=END,
    )  # fmt: skip
    mistral = MistralForCausalLM(config).eval()
    with pytest.raises(BadInputError, match="window is 64"):
        _answers(mistral, tokenizer, [INSTRUCTION + [5] * 60], trie)
    inputs = [INSTRUCTION + [5] * i for i in (1, 9)]
    _same(
        _answers(mistral, tokenizer, inputs, trie), [slow_greedy(mistral, tokenizer, ids, trie, 16) for ids in inputs]
    )


def test_a_prefix_cache_can_be_given(llama, tokenizer):
    trie, _ = random_trie(np.random.default_rng(0))
    inputs = _inputs(np.random.default_rng(6), 5)
    prefix = instruction_cache(llama, INSTRUCTION)
    options = GenerationSettings(max_new_tokens=16, beams=1)
    given = generate(llama, tokenizer, inputs, INSTRUCTION, trie, FORMAT, options, list("abcde"), prefix=prefix)
    again = generate(llama, tokenizer, inputs, INSTRUCTION, trie, FORMAT, options, list("abcde"), prefix=prefix)
    assert given == again
    _same(given, _answers(llama, tokenizer, inputs, trie))


def test_nothing_to_do(llama, tokenizer):
    assert _answers(llama, tokenizer, [], CodeTrie.build([[1]], ["x"])) == []
    with pytest.raises(BadInputError, match="1 row keys for 2 inputs"):
        _answers(llama, tokenizer, [INSTRUCTION] * 2, CodeTrie.build([[1]], ["x"]), keys=["a"])


def test_rows_of_like_length_are_read_together_longest_first():
    lengths = [3, 90, 5, 88, 4, 91]
    batches = _batches([[0] * length for length in lengths], batch_size=3)
    assert [[lengths[row] for row in batch] for batch in batches] == [[91, 90, 88], [5, 4, 3]]
