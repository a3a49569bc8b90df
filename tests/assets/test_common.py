"""What every asset shares."""

import html

import pyarrow as pa
import pytest

from assets.common import NightlyConfig, chosen_categories, newest_day, preview_markdown
from ml.errors import BadInputError
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse


def test_a_preview_names_nobody_and_its_markup_is_inert():
    table = TABLES["recommendations"]
    rows = pa.table({"user_id": ["someone"], "rank": [1], "item_id": ["<script>|[x](y)\n" + "long" * 50]})
    shown = preview_markdown(table, rows).md_str
    assert "someone" not in shown and "user_id" not in shown
    assert "<script>" not in shown and "](" not in shown
    assert len(shown.splitlines()) == 3 and len(shown) < 400
    assert "<script>|[x](y)" in html.unescape(shown), "what a person reads is what the table holds"


def test_categories_of_a_run_must_be_known():
    settings = Settings(categories=["Hats", "Coats"])
    assert chosen_categories(NightlyConfig(), settings) == ["Hats", "Coats"]
    assert chosen_categories(NightlyConfig(categories=["Coats"]), settings) == ["Coats"]
    with pytest.raises(BadInputError, match=r"Shoes.*Hats.*Coats"):
        chosen_categories(NightlyConfig(categories=["Shoes"]), settings)


def test_without_a_published_day_the_next_step_is_said(tmp_path):
    with pytest.raises(BadInputError, match="hemline nightly"):
        newest_day(Warehouse(tmp_path))
