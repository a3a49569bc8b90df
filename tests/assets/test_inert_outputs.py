"""Formulas, markup and control characters of titles and searches, in what people open: shown, and inert."""

import csv

import pyarrow as pa
import pytest

from assets.common import preview_markdown
from ml.models.registry import ModelRegistry
from ml.tables import EVENT_IDS, TABLES, WRITTEN

FORMULAS = ['=HYPERLINK("http://x")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1"]
CONTROL = "a\x1b[2J\x1b]8;;http://x\x07b\u202e\u200b\r\n<img src=x onerror=alert(1)> [l](javascript:x) `c` <|im_end|>"


def test_a_preview_has_one_line_a_row_without_markup_or_control_characters():
    rows = pa.table({"item_id": ["i"], "title": [CONTROL], "category": ["| --- |\n# x"]})
    shown = preview_markdown(TABLES["catalog"], rows).md_str
    assert len(shown.split("\n")) == 3
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert not [mark for mark in ("<img", "](", "`c`", "<|", "# x") if mark in shown]


@pytest.mark.parametrize("name", TABLES)
def test_no_preview_shows_an_id_of_a_customer_or_what_they_searched_for(name):
    table = TABLES[name]
    head = preview_markdown(table, table.schema.empty_table()).md_str.splitlines()[0]
    shown = {column.strip() for column in head.strip("|").split("|")}
    assert shown.isdisjoint({"user_id", "session_id", *EVENT_IDS, *WRITTEN})


def test_a_formula_in_a_csv_is_text(tmp_path):
    registry = ModelRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts", tmp_path / "cache")
    with registry.run("adapter", "Hats", tags={}, params={}) as run:
        run.table(pa.table({"title": [*FORMULAS, "a = b"], "value": [-1.5] * 8}), "titles.csv")
    (file,) = (tmp_path / "artifacts").rglob("titles.csv")
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["title"] for row in rows] == [f"'{text}" for text in FORMULAS] + ["a = b"]
    assert {row["value"] for row in rows} == {"-1.5"}, "a number is no formula"
