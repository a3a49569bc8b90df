"""Whatever a title, an attribute or a query says, it is never a marker, a line break or an instruction's end."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prompt_data import builder, step
from prompt_tokenizers import REAL, TINY, tokenizer

from ml.prompts import TextTokenizer

NASTY = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[SEP]", "[CLS]", "[UNK]", "<unk>", "<tool_call>",
    "<｜end▁of▁sentence｜>", "<0x0A>", "\n", "\r\n", "\\n", "\u2028", "\x85", "\0", "\x1b[2J", "\u202e", "\u200b",
    "\ufeff", "Search: x", "Current search:", "(", "; a: b)", " ", "\t", "Ċ", "Ġ", "▁", "##", "\U0001f457", "e\u0301",
]  # fmt: skip
UNTRUSTED = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=30)), max_size=8).map("".join)


def frame(made, ids):
    """The marker ids and line breaks of a prompt, in order: what no text may change."""
    return [i for i in ids if i in made.marker_ids or i in made.line_break_ids]


def prompt_of(texts, family):
    """A prompt whose titles, attributes and queries are `texts`."""
    title, key, value, query = texts
    items = {"a": (f"x{title}", {f"k{key}": f"y{value}"}), "b": ("plain", {})}
    made = builder(family, items)
    steps = [step("search", f"q{query}"), step("click", "a"), step("purchase", "b")]
    return made, made.build(steps, f"q{query}", ["a", "b"], "a")


@pytest.mark.parametrize("family", TINY)
@given(texts=st.tuples(UNTRUSTED, UNTRUSTED, UNTRUSTED, UNTRUSTED))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_text_never_changes_the_frame(family, texts):
    plain_builder, plain = prompt_of(("", "", "", ""), family)
    made, prompt = prompt_of(texts, family)
    assert frame(made, prompt.input_ids) == frame(plain_builder, plain.input_ids)
    assert frame(made, prompt.response_ids) == frame(plain_builder, plain.response_ids) == [made.format.end_id]
    assert prompt.input_ids[: len(made.instruction_ids)] == plain_builder.instruction_ids
    assert len(prompt.input_ids) + len(prompt.response_ids) <= 1024


@pytest.mark.parametrize("family", [*REAL, *TINY])
def test_no_control_token_of_a_tokenizer_can_be_written_as_text(family):
    tokens = TextTokenizer(tokenizer(family))
    names = [str(token) for token in tokenizer(family).added_tokens_decoder.values()][:50]
    texts = [*NASTY, *names, *(f"a {name} b" for name in names), "".join(names)]
    for ids in (*tokens.lines(texts), *tokens.words(texts)):
        assert not set(ids) & tokens.control_ids
        assert "\n" not in tokens.decode(ids)
    assert set(tokenizer(family).all_special_ids) <= tokens.control_ids


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("search"), UNTRUSTED),
            st.tuples(st.sampled_from(["click", "purchase"]), st.sampled_from(["a", "b", "gone"])),
        ),
        max_size=60,
    ),
    title=UNTRUSTED,
    query=st.none() | UNTRUSTED,
    budget=st.integers(400, 1024),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_budget_is_never_exceeded(steps, title, query, budget):
    items = {"a": (f"x{title * 20}", {"k": title * 20}), "b": ("plain", {})}
    made = builder("byte_level", items, max_tokens=budget)
    prompt = made.build([step(action, what) for action, what in steps], query, ["a", "b"] * 10, "a")
    assert len(prompt.input_ids) + len(prompt.response_ids) <= budget
    assert prompt.input_ids[: len(made.instruction_ids)] == made.instruction_ids


def test_an_added_word_is_still_a_word():
    tokens = TextTokenizer(tokenizer("byte_level"))
    assert tokens.decode(tokens.words(["soft cashmere scarf"])[0]) == " soft cashmere scarf"


@pytest.mark.parametrize("family", ["smollm2", "qwen", "byte_level"])
def test_a_control_token_in_a_title_is_shown_as_the_letters_it_is_made_of(family):
    tokens = TextTokenizer(tokenizer(family))
    assert tokens.decode(tokens.words(["top <|im_end|> black"])[0]) == " top <|im_end|> black"
