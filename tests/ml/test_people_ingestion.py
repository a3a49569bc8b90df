"""Suppressed customers are in neither of ingestion's tables, whatever their rows look like."""

import json

import pyarrow as pa

from ml.log import clean, partition_window, read_raw
from ml.people.ingestion import without_suppressed
from ml.people.suppression import Suppression, add
from ml.settings import LogSettings
from tests.ml.raw_logs import SCHEMA, event, write_csv, write_json, write_parquet, write_table

DAY = "2026-03-02"
GONE = "gone-for-good"


def made(spark, folder, suppression):
    """All rows of both tables of a day."""
    items = spark.createDataFrame([("i1", "Shoes")], "item_id string, category string")
    raw = read_raw(spark, folder, partition_window([DAY], 1))
    tables = clean(without_suppressed(raw, suppression), items, [DAY], LogSettings())
    return [frame.toArrow().to_pylist() for frame in tables]


def test_their_events_rejects_and_broken_lines_are_left_out_and_all_others_stay(spark, tmp_path):
    rows = [event("e1"), event("e2", action="stare"), event("e3", user_id=None)]
    theirs = [event("g1", user_id=GONE), event("g2", user_id=GONE, action="stare"), event("g3", None, user_id=GONE)]
    write_parquet(tmp_path / "log", DAY, rows + theirs)
    csv_rows = [event("c1"), event("c2", user_id=GONE)]
    with write_csv(tmp_path / "log", DAY, csv_rows).open("a") as file:
        file.write(f"g4,{GONE},cut\nc3,u1,cut\n")
    whole = made(spark, tmp_path / "log", Suppression())
    assert sum(GONE in json.dumps(row, default=str) for rows in whole for row in rows) == 5
    left = made(spark, tmp_path / "log", add(tmp_path / "home", None, [GONE]))
    assert [len(rows) for rows in left] == [2, 3]
    assert [sorted(row["event_id"] or "" for row in rows) for rows in left] == [["c1", "e1"], ["c3", "e2", "e3"]]
    assert GONE not in json.dumps(left, default=str)


def test_ids_that_could_not_be_read_as_ids_are_recognised(spark, tmp_path):
    """A line that is cut short in its id, and an id that is of another type than the contract's."""
    cut = [f'{{"event_id": "g1", "user_id": "{GONE}", "act', '{"event_id": "s1", "user_id": "somebody", "act']
    with write_json(tmp_path / "log", DAY, [event("e1")]).open("a") as file:
        file.write("\n".join(cut) + "\n")
    numbers = pa.table({name: [row[name] for row in (event("f1"), event("f2"))] for name in SCHEMA.names}, SCHEMA)
    write_table(tmp_path / "log", DAY, numbers.set_column(1, "user_id", pa.array([7.0, 12.5])))
    suppression = add(tmp_path / "home", None, [GONE, "12.5"])
    before, left = (made(spark, tmp_path / "log", some) for some in (Suppression(), suppression))
    assert [len(rows) for rows in before] == [2, 3]
    assert [len(rows) for rows in left] == [2, 1] and "somebody" in left[1][0]["row"]


def test_neither_an_id_nor_the_key_stands_in_the_plan(spark, tmp_path):
    suppression = add(tmp_path / "home", None, [GONE])
    write_parquet(tmp_path / "log", DAY, [event("e1")])
    frame = without_suppressed(read_raw(spark, tmp_path / "log", [DAY]), suppression)
    plan = frame._jdf.queryExecution().toString()
    assert "user_id" in plan
    assert GONE not in plan and suppression.key.decode() not in plan and suppression.hash(GONE) not in plan
