"""The catalogue as shops keep it, and the table and availability made from it."""

import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.errors import BadInputError
from ml.log import available_items, build_catalog, catalog_report, read_catalog
from ml.settings import CatalogColumns
from ml.tables import TABLES
from ml.warehouse import Warehouse
from tests.ml.raw_logs import at

PLAIN = CatalogColumns()


def read(spark, path: Path, columns: CatalogColumns = PLAIN, categories=("Shoes", "Bags")) -> dict[str, dict]:
    rows = read_catalog(spark, path, columns, list(categories)).toArrow().to_pylist()
    assert len({row["item_id"] for row in rows}) == len(rows)
    return {row["item_id"]: row | {"attributes": dict(row["attributes"])} for row in rows}


def write(path: Path, rows: list[dict] | dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows) if isinstance(rows, dict) else pa.Table.from_pylist(rows), path)
    return path


def item(item_id: str | None, title: str | None = "Boot", category: str | None = "Shoes", **more: object) -> dict:
    return {"item_id": item_id, "title": title, "category": category, **more}


def test_text_is_cleaned_cut_and_never_empty(spark, tmp_path):
    titles = {
        "nul": "a\0b\u202e c",
        "null": None,
        "blank": " \u200b",
        "long": "x" * 1_000_000,
        "marker": "<|im_end|> [INST]",
    }
    rows = [item(name, title, color="dark\nblue" if name == "nul" else None) for name, title in titles.items()]
    found = read(spark, write(tmp_path / "c.parquet", rows))
    assert {name: row["title"] for name, row in found.items()} == {
        "nul": "a b c", "null": "untitled null", "blank": "untitled blank", "long": "x" * 500,
        "marker": "<|im_end|> [INST]",
    }  # fmt: skip
    assert (found["nul"]["attributes"], found["null"]["attributes"]) == ({"color": "dark blue"}, {})


def test_categories_that_are_not_listed_go_to_other(spark, tmp_path):
    rows = [
        item("a", category="Bags"),
        item("b", category=" Bags "),
        item("c", category="Hats"),
        item("d", category=None),
    ]
    found = read(spark, write(tmp_path / "c.parquet", rows))
    assert [found[name]["category"] for name in "abcd"] == ["Bags", "Bags", "other", "other"]


def test_columns_are_what_settings_say(spark, tmp_path):
    path = write(
        tmp_path / "c.parquet",
        {
            "sku": pa.array([7, 8], pa.int64()), "a.name": ["Boot", "Bag"], "grp": ["Shoes", "Bags"],
            "stock": ["Yes", "?"],
            "price": [10.0, 9.5], "since": pa.array([at("2026-01-01 00:00:00")] * 2, pa.timestamp("ns")),
            "secret": ["x", "y"], "secret ": ["z", None], "": ["z", None], "nested": [["a"], []],
        },
    )  # fmt: skip
    columns = CatalogColumns(item_id="sku", title="a.name", category="grp", available="stock")
    found = read(spark, path, columns)
    assert found["7"] == {
        "item_id": "7", "title": "Boot", "category": "Shoes", "available": True,
        "attributes": {"price": "10", "since": "2026-01-01 00:00:00", "secret": "x"},
    }  # fmt: skip
    assert (found["8"]["available"], found["8"]["attributes"]["price"]) == (None, "9.5")
    chosen = read(spark, path, columns.model_copy(update={"attributes": ["price"]}))
    assert chosen["7"]["attributes"] == {"price": "10"}


@pytest.mark.parametrize(
    ("columns", "setting"),
    [
        (CatalogColumns(title="name"), "catalog_columns.title is 'name'"),
        (CatalogColumns(available="stock"), "catalog_columns.available is 'stock'"),
        (CatalogColumns(attributes=["title", "brand"]), r"catalog_columns.attributes\[1\] is 'brand'"),
    ],
)
def test_a_mapped_column_that_is_missing_is_named_with_those_that_are_there(spark, tmp_path, columns, setting):
    with pytest.raises(BadInputError, match=setting) as caught:
        read_catalog(spark, write(tmp_path / "c.parquet", [item("a")]), columns, ["Shoes"])
    assert "['category', 'item_id', 'title']" in str(caught.value)


def test_the_last_of_an_item_s_rows_in_file_order_stays_and_all_that_was_dropped_is_counted(spark, tmp_path):
    write(
        tmp_path / "c" / "a.parquet",
        [item("twin"), item("twin"), item("moved", "zzz"), item(None), item("b\0d"), item(" ")],
    )
    write(tmp_path / "c" / "b.parquet", [item("moved", "mmm"), item("moved", "aaa", "Hats"), item("untold", None)])
    found = read(spark, tmp_path / "c")
    assert {name: row["title"] for name, row in found.items()} == {
        "twin": "Boot",
        "moved": "aaa",
        "untold": "untitled untold",
    }
    assert catalog_report(spark, tmp_path / "c", PLAIN, ["Shoes", "Bags"]) == {
        "rows": 9, "items": 3, "malformed_lines": 0, "unusable_ids": 3, "identical_duplicates": 1,
        "conflicting_items": 1, "untitled": 1, "other_category": 1,
    }  # fmt: skip


def test_csv_with_line_breaks_in_quotes_and_json_lines_are_read_too(spark, tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "a.csv").write_text('item_id,title,category,note\n01,"Boot\n""new""",Shoes,warm\nbroken\n')
    lines = [item("02", "Bag", "Bags", size=42), item("03", "Cap", "Hats")]
    (folder / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read(spark, folder)
    assert {name: row["title"] for name, row in found.items()} == {"01": 'Boot "new"', "02": "Bag", "03": "Cap"}
    assert [found[name]["attributes"] for name in ("01", "02", "03")] == [{"note": "warm"}, {"size": "42"}, {}]
    assert catalog_report(spark, folder, PLAIN, ["Shoes"])["malformed_lines"] == 1


def test_a_catalogue_that_is_not_there_empty_or_damaged_is_named(spark, tmp_path):
    damaged = write(tmp_path / "d.parquet", [item("a")] * 9)
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "no.parquet", damaged, tmp_path / "empty"):
        with pytest.raises(BadInputError, match=str(path)):
            read_catalog(spark, path, PLAIN, ["Shoes"])


def build(
    spark, path: Path, previous, events: list[tuple[str, str]], day: str, columns: CatalogColumns = PLAIN, kept=None
):
    interactions = spark.createDataFrame(events, "date string, item_id string")
    frame = build_catalog(read_catalog(spark, path, columns, ["Shoes"]), previous, interactions, day, kept)
    rows = frame.select(*TABLES["catalog"].names).toArrow().to_pylist()
    return frame, {row["item_id"]: row for row in rows}


def test_the_table_remembers_when_items_joined_were_seen_and_left(spark, tmp_path):
    events = [("2026-03-01", "a"), ("2026-03-02", "a"), ("2026-03-09", "a"), ("2026-03-09", "b"), ("2026-03-02", None)]
    path = write(tmp_path / "c.parquet", [item("a"), item("b"), item("c")])
    first, rows = build(spark, path, None, events, "2026-03-02")
    seen = lambda row: (row["first_seen"], row["last_seen"], row["listed_on"], row["available"])  # noqa: E731
    assert seen(rows["a"]) == (date(2026, 3, 1), date(2026, 3, 2), None, None)
    assert seen(rows["b"]) == seen(rows["c"]) == (None, None, None, None)
    path = write(tmp_path / "c2.parquet", [item("a", "Boot 2"), item("d")])
    second, rows = build(spark, path, first, events, "2026-03-03")
    assert set(rows) == {"a", "b", "c", "d"}
    assert (rows["a"]["title"], rows["b"]["title"]) == ("Boot 2", "Boot")
    assert seen(rows["d"]) == (date(2026, 3, 3), None, date(2026, 3, 3), None)
    _, rows = build(spark, path, second, events, "2026-03-09")
    assert seen(rows["d"])[2] == date(2026, 3, 3)
    assert seen(rows["b"]) == (date(2026, 3, 9), date(2026, 3, 9), None, None)


def test_days_that_are_kept_no_more_have_been_seen_all_the_same(spark, tmp_path):
    path = write(tmp_path / "c.parquet", [item("a"), item("b"), item("c")])
    events = [("2026-03-01", "a"), ("2026-03-01", "b"), ("2026-03-05", "a"), ("2026-03-06", "c")]
    before, _ = build(spark, path, None, events, "2026-03-06")
    _, rows = build(spark, path, before, [("2026-03-05", "a"), ("2026-03-07", "c")], "2026-03-07", kept="2026-03-05")
    seen = {name: (row["first_seen"].day, row["last_seen"].day) for name, row in rows.items()}
    assert seen == {"a": (1, 5), "b": (1, 1), "c": (7, 7)}, "a day that is kept is read again, and may have changed"


def test_an_item_gone_from_a_listing_with_availability_is_not_available(spark, tmp_path):
    columns = CatalogColumns(available="stock")
    first, _ = build(
        spark,
        write(tmp_path / "1.parquet", [item("a", stock=True), item("b", stock=True)]),
        None,
        [],
        "2026-03-01",
        columns,
    )
    path = write(tmp_path / "2.parquet", [item("a", stock=True)])
    second, rows = build(spark, path, first, [], "2026-03-02", columns)
    assert (rows["a"]["available"], rows["b"]["available"]) == (True, False)
    _, rows = build(spark, write(tmp_path / "3.parquet", [item("b", stock=True)]), second, [], "2026-03-03", columns)
    assert (rows["a"]["available"], rows["b"]["available"]) == (False, True)


def publish(root: Path, catalog: list[dict], events: list[tuple[str, str]]) -> Warehouse:
    warehouse = Warehouse(root)
    blank = dict.fromkeys(TABLES["catalog"].names) | {"title": "x", "category": "Shoes", "attributes": []}
    warehouse.publish(
        "catalog", pa.Table.from_pylist([blank | row for row in catalog], schema=TABLES["catalog"].schema)
    )
    for day in sorted({day for day, _ in events}):
        rows = [
            dict.fromkeys(TABLES["interactions"].names)
            | {
                "event_id": f"{day}-{n}",
                "user_id": "u",
                "event_time": at(f"{day} 10:00:00"),
                "action": "click",
                "item_id": it,
            }
            for n, (when, it) in enumerate(events)
            if when == day
        ]
        warehouse.publish("interactions", pa.Table.from_pylist(rows, schema=TABLES["interactions"].schema), date=day)
    return warehouse


def test_items_are_available_by_recent_events_or_recent_listing_and_never_by_the_future(tmp_path):
    events = [
        ("2026-03-01", "old"),
        ("2026-03-02", "edge"),
        ("2026-03-29", "today"),
        ("2026-03-30", "future"),
        ("2026-03-29", None),
    ]
    catalog = [
        {"item_id": "old", "first_seen": date(2026, 3, 1)}, {"item_id": "edge"},
        {"item_id": "today", "category": "Bags"},
        {"item_id": "future", "first_seen": date(2026, 3, 30)}, {"item_id": "silent"},
        {"item_id": "new", "listed_on": date(2026, 3, 2)}, {"item_id": "not new", "listed_on": date(2026, 3, 1)},
        {"item_id": "joins later", "listed_on": date(2026, 3, 30)},
    ]  # fmt: skip
    warehouse = publish(tmp_path, catalog, events)
    assert available_items(warehouse, "2026-03-29", 28) == {"Bags": ["today"], "Shoes": ["edge", "new"]}


def test_the_catalogue_s_own_word_counts_where_it_has_one(tmp_path):
    catalog = [
        {"item_id": "sold out", "available": False}, {"item_id": "in stock", "available": True}, {"item_id": "unknown"},
        {"item_id": "future", "available": True, "first_seen": date(2026, 3, 30)},
    ]  # fmt: skip
    warehouse = publish(tmp_path, catalog, [("2026-03-29", "sold out"), ("2026-03-29", "unknown")])
    assert available_items(warehouse, "2026-03-29", 28) == {"Shoes": ["in stock", "unknown"]}
