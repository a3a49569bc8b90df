"""Item codes: short, unmistakable as text, prefix-free, and fixed for ever."""

from functools import cache

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_tokenizers import REAL, TINY, tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ml.errors import BadInputError
from ml.prompts import CodeBook, TextTokenizer, assign_codes, code_book, tokenizer_fingerprint
from ml.tables import TABLES


@cache
def book_of(family):
    return code_book(tokenizer(family))


@pytest.mark.parametrize("family", [*REAL, *TINY])
def test_codes_come_back_from_the_text_of_a_prompt_line(family):
    tokens, book = TextTokenizer(tokenizer(family)), book_of(family)
    for ordinal in (0, 1, 777, 99_999, 229_376, 1_400_000, 2_400_000):
        code = book.code(ordinal)
        before, after = tokens.lines(["Click"])[0], [*tokens.suffix(":"), *tokens.words(["Strap top - Black"])[0]]
        line = [*before, *code, *after]
        assert list(tokens.lines([tokens.decode(line)])[0]) == line
        assert book.text(ordinal) in tokens.decode(line)
        assert not set(code) & tokens.control_ids


@pytest.mark.parametrize("family", REAL)
def test_real_tokenizers_need_two_tokens_for_small_catalogues_and_three_for_millions(family):
    book = book_of(family)
    assert len(book.code(100_000)) == 2
    assert len(book.code(10_000_000)) == 3
    assert all(text.isascii() and text.isalpha() and len(text) <= 3 for text in book.texts)


@given(st.integers(8, 40), st.data())
@settings(max_examples=50, deadline=None)
def test_no_code_is_the_beginning_of_another(size, data):
    book = CodeBook(tuple(range(size)), tuple(map(str, range(size))))
    start = data.draw(st.integers(0, 3 * size**3))
    codes = {tuple(book.code(ordinal)) for ordinal in [*range(200), *range(start, start + 200)]}
    assert len(codes) == len({*range(200), *range(start, start + 200)})
    assert not any(code[:cut] in codes for code in codes for cut in range(len(code)))


def test_a_small_alphabet_never_runs_out():
    book = CodeBook(tuple(range(8)), tuple("abcdefgh"))
    codes = [tuple(book.code(ordinal)) for ordinal in range(5000)]
    assert len(set(codes)) == 5000
    assert max(map(len, codes)) > 4


def test_the_table_only_grows():
    first = assign_codes(tokenizer("byte_level"), None, ["b", "a", "b"])
    second = assign_codes(tokenizer("byte_level"), first, ["c", "a", "b", "d"])
    assert first.schema == TABLES["item_codes"].schema
    assert second.slice(0, 2).equals(first)
    assert second["item_id"].to_pylist() == ["b", "a", "c", "d"]
    assert second["ordinal"].to_pylist() == [0, 1, 2, 3]
    assert assign_codes(tokenizer("byte_level"), second, ["a", "d"]).equals(second)


def test_ordinals_of_rows_that_were_taken_away_are_not_used_again():
    table = assign_codes(tokenizer("byte_level"), None, ["a", "b", "c"]).slice(2)
    assert assign_codes(tokenizer("byte_level"), table, ["d"])["ordinal"].to_pylist() == [2, 3]


def test_each_tokenizer_has_its_own_rows():
    first = assign_codes(tokenizer("byte_level"), None, ["a", "b"])
    both = assign_codes(tokenizer("metaspace"), first, ["b"])
    assert both.slice(0, 2).equals(first)
    assert both["tokenizer"].to_pylist()[2] == tokenizer_fingerprint(tokenizer("metaspace"))
    assert both["ordinal"].to_pylist() == [0, 1, 0]


def test_the_fingerprint_survives_saving_and_notices_another_vocabulary(tmp_path):
    tokenizer("byte_level").save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    again.padding_side, again.model_max_length = "left", 7
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer("byte_level"))
    again.add_tokens(["velvet"])
    assert tokenizer_fingerprint(again) != tokenizer_fingerprint(tokenizer("byte_level"))


def test_rows_made_under_other_rules_are_refused():
    table = assign_codes(tokenizer("byte_level"), None, ["a", "b"])
    wrong = table.set_column(3, "code", pa.array([[1, 2], [3, 4]], pa.list_(pa.int32())))
    with pytest.raises(BadInputError, match=r"row 0 .* expected"):
        assign_codes(tokenizer("byte_level"), wrong, ["c"])


def test_a_tokenizer_without_short_words_is_refused():
    bare = Tokenizer(models.BPE(vocab={"Ġ": 0, "a": 1, ":": 2}, merges=[]))
    with pytest.raises(BadInputError, match="item codes"):
        code_book(PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="</s>"))


def test_pieces_that_merge_with_their_neighbours_are_left_out():
    """A piece that its neighbour swallows cannot be read back, so no code holds it."""
    merges = [*(("▁", letter) for letter in "ABCDEFGHIJ"), ("▁A", "▁A")]
    pieces = [*dict.fromkeys("▁ABCDEFGHIJBoughtTop:\n"), *(left + right for left, right in merges)]
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    made.decoder = decoders.Metaspace()
    book = code_book(PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>"))
    assert set(book.texts) == set("BCDEFGHIJ")
