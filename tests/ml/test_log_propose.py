"""What `hemline init` proposes from a shop's own files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.errors import BadInputError
from ml.log import propose_settings
from ml.settings import Settings
from tests.ml.raw_logs import event, write_csv, write_json, write_parquet


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "raw [1] *log"
    write_parquet(folder, "2026-03-01", [event(f"e{n}", item_id="s1") for n in range(3)])
    write_csv(folder, "2026-03-02", [event("f1", item_id="b1"), event("f2", item_id="gone")])
    write_json(folder, "2026-03-03", [event("g1", item_id="b1"), event("g2", action="search", item_id=None, query="q")])
    return folder


def catalogue(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_columns_categories_and_the_first_day_are_found_and_what_was_guessed_is_told(log, tmp_path):
    groups = {"b1": "Bags", "s1": "Shoes", "s2": "Shoes", "o1": "Other", "n1": None}
    rows = [
        {"Article ID": name, "prod_name": "x", "department": group, "In-Stock": True} for name, group in groups.items()
    ]
    found = propose_settings(log, catalogue(tmp_path / "c.parquet", rows))
    notes = " ".join(found.pop("notes"))
    assert found == {
        "raw_log": str(log),
        "catalog": str(tmp_path / "c.parquet"),
        "catalog_columns": {
            "item_id": "Article ID", "title": "prod_name", "category": "department", "available": "In-Stock",
        },
        "categories": ["Shoes", "Bags"],
        "start_date": "2026-03-01",
    }  # fmt: skip
    assert Settings.model_validate(found).categories == ["Shoes", "Bags"]
    assert "'prod_name' was taken for 'title'" in notes
    assert "1 of 6 clicks and purchases" in notes
    assert "'Other'" in notes


def test_small_categories_and_those_beyond_twenty_go_to_other(log, tmp_path):
    rows = [{"item_id": f"i{n}-{k}", "title": "x", "category": f"c{n:02}"} for n in range(25) for k in range(30 - n)]
    rows += [{"item_id": "s1", "title": "x", "category": "tiny but bought"}]
    found = propose_settings(log, catalogue(tmp_path / "c.parquet", rows))
    assert found["categories"] == ["tiny but bought", *(f"c{n:02}" for n in range(19))]
    assert any(note.startswith("6 small categories") for note in found["notes"])


def test_csv_and_json_catalogues_are_read(log, tmp_path):
    (tmp_path / "c.csv").write_text('sku,name,category\nb1,"A ""bag""\nof two lines",Bags\n')
    assert propose_settings(log, tmp_path / "c.csv")["categories"] == ["Bags"]
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": "b1", "title": "x", "group": "Bags"}) + "\n")
    assert propose_settings(log, tmp_path / "c.jsonl")["catalog_columns"] == {
        "item_id": "id", "title": "title", "category": "group",
    }  # fmt: skip


def test_a_catalogue_without_a_column_that_could_be_the_title_says_which_setting_to_write(log, tmp_path):
    path = catalogue(tmp_path / "c.parquet", [{"item_id": "b1", "category": "Bags", "words": "x"}])
    with pytest.raises(BadInputError, match=r"'words'.*catalog_columns.title"):
        propose_settings(log, path)


def test_a_catalogue_without_categories_or_that_cannot_be_read_is_refused(log, tmp_path):
    with pytest.raises(BadInputError, match="category"):
        propose_settings(log, catalogue(tmp_path / "c.parquet", [{"item_id": "b1", "title": "x", "category": "all"}]))
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BadInputError, match=r"d\.parquet"):
        propose_settings(log, tmp_path / "d.parquet")
    with pytest.raises(BadInputError, match="missing"):
        propose_settings(log, tmp_path / "missing.parquet")
