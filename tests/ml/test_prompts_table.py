"""The prompts table: which examples, which variant, and the same whatever the row order."""

from prompt_data import builder, example, examples, step

from ml.prompts import build_prompts, sample_examples
from ml.settings import PromptSettings
from ml.tables import TABLES

ROWS = [example(n, split=("train", "validation", "test")[n % 3]) for n in range(90)]


def ids(table):
    return table["example_id"].to_pylist()


def test_a_sample_is_the_same_whatever_the_row_order_and_grows_by_appending():
    forward, backward = examples(ROWS), examples(ROWS[::-1])
    ten = sample_examples(forward, "temporal", ["train"], 10, seed=1)
    assert ten.num_rows == 10
    assert sample_examples(backward, "temporal", ["train"], 10, seed=1).equals(ten)
    assert ids(sample_examples(forward, "temporal", ["train"], 20, seed=1))[:10] == ids(ten)
    assert ids(sample_examples(forward, "temporal", ["train"], 10, seed=2)) != ids(ten)


def test_a_sample_keeps_to_its_split_and_to_eligible_examples():
    rows = [row | {"eligible": n % 2 == 0} for n, row in enumerate(ROWS)]
    both = sample_examples(examples(rows), "temporal", ["train", "validation"], None, seed=0)
    assert sorted(ids(both)) == sorted(f"x{n}" for n in range(90) if n % 2 == 0 and n % 3 < 2)
    assert sample_examples(examples(rows), "leave_one_out", ["test"], None, seed=0).num_rows == 0


def test_the_table_has_the_prompts_of_its_examples_in_their_order():
    made = builder()
    table = build_prompts(made, examples(ROWS), {"x1": ["i1"]}, PromptSettings(), seed=0)
    assert table.schema == TABLES["prompts"].schema
    assert ids(table) == [f"x{n}" for n in range(90)]
    expected = made.build(ROWS[1]["steps"], "black top", ["i1"], "i3")
    row = table.slice(1, 1).to_pylist()[0]
    assert (row["input_ids"], row["response_ids"]) == (expected.input_ids, expected.response_ids)
    assert (row["text"], row["response"]) == (expected.text, expected.response)
    assert row["temporal_split"] == "validation"


def test_a_share_of_the_training_prompts_shows_purchases_only():
    rows = [*ROWS, example(90, steps=[step("click", "i1")])]
    settings = PromptSettings(purchases_only_share=0.5)
    table = build_prompts(builder(), examples(rows), {}, settings, seed=0)
    variants = dict(zip(ids(table), table["variant"].to_pylist(), strict=True))
    thin = {example for example, variant in variants.items() if variant == "purchases_only"}
    assert 5 <= len(thin) <= 25
    assert all(int(example[1:]) % 3 == 0 for example in thin)
    backward = build_prompts(builder(), examples(rows[::-1]), {}, settings, seed=0)
    assert dict(zip(ids(backward), backward["variant"].to_pylist(), strict=True)) == variants
    everything = build_prompts(builder(), examples(rows), {}, PromptSettings(purchases_only_share=1), seed=0)
    assert everything["variant"].to_pylist()[-1] == "all"  # no purchase to show
    forced = build_prompts(builder(), examples(rows), {}, settings, seed=0, variant="purchases_only")
    assert set(forced["variant"].to_pylist()) == {"purchases_only"}


def test_no_examples_make_an_empty_table():
    table = build_prompts(builder(), examples([]), {}, PromptSettings(), seed=0)
    assert table.num_rows == 0 and table.schema == TABLES["prompts"].schema
