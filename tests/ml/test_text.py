"""Strangers' text: what is shown is one clean line, and queries that read alike are alike."""

import time
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from ml.text import clean_text, normalise_query


def test_control_format_and_bidi_characters_are_gone_and_white_space_is_single():
    assert clean_text("red\u202e\tdress\u200b \x07for\r\n\u00a0you\u2028now") == "red dress for you now"


def test_nul_and_line_controls_separate_words():
    assert clean_text("red\0dress\x0bred\x85coat") == "red dress red coat"


def test_nothing_is_the_empty_text():
    assert [clean_text(text) for text in (None, "", " \t", "\u200b")] == ["", "", "", ""]


def test_a_letter_composes_with_the_accent_that_a_hidden_character_kept_from_it():
    assert clean_text("e\u200b\u0301tole") == "étole"


def test_length_is_cut_without_a_trailing_space():
    assert clean_text("a" * 4 + " b", 5) == "aaaa"


def test_a_megabyte_costs_nothing():
    start = time.perf_counter()
    assert clean_text("wide trousers " * 80_000, 500) == ("wide trousers " * 80)[:500].strip()
    assert time.perf_counter() - start < 0.1


def test_queries_that_read_alike_are_alike():
    alike = ["Ｒed  Dress", "RED DRESS", " red\u00a0dress ", "red\tdress\u200b"]
    assert {normalise_query(query) for query in alike} == {"red dress"}
    assert normalise_query("ﬁne café") == normalise_query("FINE CAFE\u0301") == "fine café"


def test_a_query_of_nothing_visible_is_empty():
    assert [normalise_query(query) for query in (None, "", " ", "\u200b\u202e")] == ["", "", "", ""]


@given(st.text(), st.none() | st.integers(1, 50))
def test_clean_text_is_one_visible_line_and_cleaning_it_again_changes_nothing(text: str, limit: int | None):
    cleaned = clean_text(text, limit)
    assert cleaned == " ".join(cleaned.split())
    assert all(not unicodedata.category(c).startswith("C") for c in cleaned)
    assert limit is None or len(cleaned) <= limit
    assert clean_text(cleaned, limit) == cleaned


@given(st.text(max_size=60))
def test_a_normalised_query_stays_as_it_is(text: str):
    once = normalise_query(text)
    assert len(once) <= 200
    assert normalise_query(once) == once
