"""The documents that are generated from the schemas are not behind them."""

from pathlib import Path

from pipelines.dictionary import dictionary, with_overview

ROOT = Path(__file__).parents[2]


def test_documents_say_what_the_schemas_say():
    assert (ROOT / "docs" / "tables.md").read_text("utf-8") == dictionary()
    readme = (ROOT / "README.md").read_text("utf-8")
    assert with_overview(readme) == readme
