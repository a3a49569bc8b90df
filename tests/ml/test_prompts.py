"""A prompt holds what it should, in the right form, within its budget (paper 4.2, figure 3)."""

import pytest
from prompt_data import ITEMS, STEPS, builder, step
from prompt_tokenizers import REAL, TINY, tokenizer

from ml.errors import BadInputError
from ml.prompts.builder import INSTRUCTION


def test_a_whole_prompt_as_a_person_reads_it():
    prompt = builder("smollm2").build(STEPS, "black dress", ["i3", "i1"], "i3")
    assert (
        prompt.text
        == """<|im_start|>system
Recommend the fashion item that the customer buys next, from their steps. Read the steps in order: the newest matter \
most. Mind fine details: type, colour, pattern, brand, size, and who wears it. Fit the season and occasion. Prefer \
items at the top of the results of the current search. Answer with one line, code: title.<|im_end|>
<|im_start|>user
Buy US CO: Linen shirt - Sand - Men (pattern: Stripe)
Search: black top
Click US US: Rib top - Black - Ladies (product type: Vest top; pattern: Solid)
Buy US IS: Canvas belt (color: Navy)
Current search: black dress
Top results:
 US II: Wrap dress - Rust - Ladies
 US US: Rib top - Black - Ladies
<|im_end|>
<|im_start|>assistant
"""
    )
    assert prompt.response == "US II: Wrap dress - Rust - Ladies"


def test_the_instruction_is_short():
    assert len(builder("smollm2").instruction_ids) < 100
    assert all(word in INSTRUCTION for word in ("order", "details", "season and occasion", "top of the results"))


@pytest.mark.parametrize("family", [*REAL, *TINY])
def test_the_same_form_for_every_tokenizer(family):
    made = builder(family)
    prompt = made.build(STEPS, "black dress", ["i3"], "i3")
    assert prompt.input_ids[: len(made.instruction_ids)] == made.instruction_ids
    code = made.build([], None, [], "i3").response_ids[:2]
    separator = made.format.separator_ids
    assert prompt.response_ids[: 2 + len(separator)] == [*code, *separator]
    assert prompt.response_ids[-1] == made.format.end_id
    # The answer stands in the input as the very ids a model has to copy.
    answer = prompt.response_ids[:-1]
    assert any(prompt.input_ids[at : at + len(answer)] == answer for at in range(len(prompt.input_ids)))
    decoded = tokenizer(family).decode(answer, clean_up_tokenization_spaces=False)
    assert "".join(decoded.casefold().split()).endswith("wrapdress-rust-ladies")


def test_the_response_is_left_out_where_the_target_is_unknown_and_changes_nothing_else():
    made = builder()
    known, unknown = made.build(STEPS, "q", ["i1"], "i3"), made.build(STEPS, "q", ["i1"])
    assert (unknown.response_ids, unknown.response) == ([], "")
    assert known.input_ids == unknown.input_ids


def test_attributes_are_chosen_and_never_repeat_the_title():
    assert "(product type: Vest top; pattern: Solid)" in builder().build([step("click", "i1")], None, []).text
    assert "(pattern: Solid)" in builder(attributes=["pattern", "color"]).build([step("click", "i1")], None, []).text
    assert "Rib top - Black - Ladies\n" in builder(attributes=[]).build([step("click", "i1")], None, []).text
    assert "Wrap dress - Rust - Ladies (product type" not in builder().build([step("click", "i3")], None, []).text
    assert "section" not in builder().build([step("click", "i4")], None, []).text
    assert (
        "(for: men)"
        in builder(items={"w": ("Women's scarf", {"for": "men"})}).build([step("click", "w")], None, []).text
    )


def test_purchases_only_shows_purchases_and_nothing_else():
    text = builder().build(STEPS, "black dress", ["i3"], variant="purchases_only").text
    lines = [line for line in text.splitlines() if line.startswith(("Buy", "Click", "Search", "Current", "Top"))]
    assert [line.split()[0] for line in lines] == ["Buy", "Buy"]
    assert "Wrap dress" not in text
    with pytest.raises(BadInputError, match="purchases_only"):
        builder().build([], None, [], variant="clicks")


def test_oldest_steps_go_first_and_the_rest_stays_whole():
    items = {f"i{n}": (f"Linen shirt number {n} - Sand", {"pattern": "Stripe"}) for n in range(60)}
    made = builder(items=items, max_tokens=700)
    steps = [step("click", f"i{n}") for n in range(50)]
    prompt = made.build(steps, "linen shirt", [f"i{n}" for n in range(50, 55)], "i59")
    assert len(prompt.input_ids) + len(prompt.response_ids) <= 700
    shown = [n for n in range(50) if f"number {n} - Sand (pattern" in prompt.text]
    assert shown == list(range(50 - len(shown), 50)) and 0 < len(shown) < 50
    assert all(f"number {n} - Sand\n" in prompt.text for n in range(50, 55))
    assert "Current search: linen shirt" in prompt.text


def test_the_memory_loses_its_last_products_where_it_alone_is_too_long():
    items = {f"i{n}": (f"Linen shirt number {n} - Sand and more words", {}) for n in range(60)}
    prompt = builder(items=items, max_tokens=420, max_memory_products=60).build(
        [step("click", "i0")], "linen shirt", [f"i{n}" for n in range(60)], "i1"
    )
    shown = [n for n in range(60) if f"number {n} -" in prompt.text]
    assert shown == list(range(len(shown))) and 1 < len(shown) < 60
    assert len(prompt.input_ids) + len(prompt.response_ids) <= 420


def test_limits_of_steps_and_memory():
    text = builder(max_steps=1, max_memory_products=1).build(STEPS, "q", ["i3", "i5"]).text
    assert "Canvas belt" in text and "Rib top" not in text
    assert "Wrap dress" in text and "Wool scarf" not in text
    assert "Top results" not in builder(max_memory_products=0).build(STEPS, "q", ["i3"]).text


def test_items_without_a_code_are_shown_by_title_and_unknown_items_not_at_all():
    made = builder(coded=["i1"])
    text = made.build([step("click", "i1"), step("click", "i2"), step("click", "gone")], "q", ["gone", "i3"]).text
    assert "\nClick Linen shirt - Sand" in text
    assert text.count("Click") == 2
    assert "Wrap dress" in text
    for target, why in (("i2", "no code"), ("gone", "not in the catalogue")):
        with pytest.raises(BadInputError, match=why):
            made.build(STEPS, None, [], target)


def test_a_budget_too_small_for_the_instruction_is_refused():
    with pytest.raises(BadInputError, match=r"prompts\.max_tokens is 100.*expected more"):
        builder(max_tokens=100)


def test_a_title_of_a_megabyte_is_cut():
    made = builder(items=ITEMS | {"long": ("wool " * 200_000, {"color": "red " * 200_000})})
    prompt = made.build([step("click", "long")], None, [], "long")
    assert len(prompt.response_ids) <= 64
    assert len(prompt.input_ids) < len(made.instruction_ids) + 250
