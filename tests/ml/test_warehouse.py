"""Publishing and reading back: schemas, checks, identical content, Spark, and plain readers."""

import tempfile
import threading
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from ml.errors import BadInputError, HemlineError
from ml.tables import STEP, TABLES, TIME
from ml.warehouse import TableCheckError, Warehouse

DAY = "2026-11-20"


def query_daily(items, clicks=1, category="Clothing"):
    rows = [
        {
            "category": category,
            "query": "red shoe",
            "item_id": item,
            "clicks": clicks,
            "purchases": 0,
            "positions": 0,
            "position_sum": 0,
        }
        for item in items
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["query_daily"].schema)


def histories(users):
    step = {
        "event_time": datetime(2026, 11, 20, 8, 30, 0, 123456, tzinfo=UTC),
        "event_id": "e1",
        "action": "click",
        "item_id": "i1",
        "query": None,
        "position": 3,
    }
    rows = [
        {"category": "Clothing", "user_id": u, "steps": [step] * n, "item_steps": n, "recent_events": n}
        for n, u in enumerate(users)
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["user_histories"].schema)


def catalog(items):
    rows = [
        {
            "item_id": item,
            "title": f"title of {item}",
            "category": "Clothing",
            "attributes": [("colour", None if item == "a" else "red")],
            "first_seen": date(2026, 1, 1),
            "last_seen": None,
            "listed_on": None,
            "available": None,
        }
        for item in items
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["catalog"].schema)


@pytest.fixture
def warehouse(tmp_path):
    return Warehouse(tmp_path / "ware house", grace_seconds=0)


def tree(root: Path):
    """Every file in the tables' trees: path to bytes and inode."""
    files = [p for p in root.rglob("*") if p.is_file() and not p.relative_to(root).parts[0].startswith("_")]
    return {str(p.relative_to(root)): (p.read_bytes(), p.stat().st_ino) for p in files}


def staged(root: Path):
    """What lies in staging: work folders and outgoing versions."""
    return sorted(str(p.relative_to(root)) for p in (root / "_staging").glob("*/*"))


def test_a_published_table_reads_back_with_its_schema(warehouse):
    spec = TABLES["query_daily"]
    done = warehouse.publish("query_daily", query_daily(["b", "c", "a"]), date=DAY)
    assert (done.rows, done.files, done.changed, done.levels) == (3, 1, True, {"date": DAY})
    assert Path(done.location) == warehouse.root / "query_daily" / f"date={DAY}"
    (file,) = Path(done.location).iterdir()
    assert file.name.startswith("part-") and file.suffix == ".parquet" and done.bytes == file.stat().st_size
    back = warehouse.read("query_daily", date=DAY)
    assert back.schema.equals(spec.schema)
    assert back.column("item_id").to_pylist() == ["a", "b", "c"], "sorted by key"
    whole = warehouse.read("query_daily", ["item_id", "date"])
    assert whole.to_pydict() == {"item_id": ["a", "b", "c"], "date": [DAY] * 3}
    assert pq.read_schema(file).field("query").metadata[b"description"] == b"The normalised search text."
    assert staged(warehouse.root) == []


def test_nothing_but_parquet_is_in_a_tables_tree(warehouse, spark):
    warehouse.publish("query_daily", query_daily(["a"]), date=DAY)
    warehouse.publish_frame("query_daily", frame_of(spark, query_daily(["b"])), date="2026-11-21")
    assert {Path(name).suffix for name in tree(warehouse.root)} == {".parquet"}


def test_identical_content_is_not_published_again(warehouse):
    warehouse.publish("query_daily", query_daily(["a", "b"]), date=DAY)
    before = tree(warehouse.root)
    again = warehouse.publish("query_daily", query_daily(["b", "a"]), date=DAY)
    assert not again.changed and again.rows == 2
    assert tree(warehouse.root) == before, "same bytes, same inodes"
    assert staged(warehouse.root) == []
    changed = warehouse.publish("query_daily", query_daily(["a", "b"], clicks=2), date=DAY)
    assert changed.changed and len(tree(warehouse.root)) == 1


def test_a_damaged_published_file_is_replaced(warehouse):
    done = warehouse.publish("query_daily", query_daily(["a"]), date=DAY)
    (file,) = Path(done.location).iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    assert warehouse.publish("query_daily", query_daily(["a"]), date=DAY).changed
    assert file.read_bytes() == good


def test_an_empty_partition_is_one_file_without_rows(warehouse):
    for data in (TABLES["recommendations"].schema.empty_table(), iter([])):
        done = warehouse.publish("recommendations", data, date=DAY, category="Clothing")
        assert (done.rows, done.files) == (0, 1)
    assert not done.changed, "no rows are no rows, however they come"
    back = warehouse.read("recommendations", date=DAY)
    assert back.num_rows == 0 and back.schema.names == [*TABLES["recommendations"].names, "category"]
    assert warehouse.exists("recommendations", date=DAY, category="Clothing")
    assert not warehouse.exists("recommendations", date=DAY, category="Footwear")


def test_batches_stream_into_the_same_bytes_as_a_table(warehouse):
    rows = query_daily([f"{n:06}" for n in range(150_000)])
    warehouse.publish("query_daily", rows, date=DAY)
    for size in (1000, 70_000):
        assert not warehouse.publish("query_daily", iter(rows.to_batches(size)), date=DAY).changed
    (file,) = Path(warehouse.location("query_daily", date=DAY)).iterdir()
    assert pq.read_metadata(file).num_row_groups == 3


@pytest.mark.parametrize("small_bytes", [2**26, 0])
def test_bad_rows_are_refused_and_what_was_there_stays(tmp_path, small_bytes):
    """In memory and by DuckDB alike."""
    warehouse = Warehouse(tmp_path, small_bytes=small_bytes, grace_seconds=0)
    warehouse.publish("query_daily", query_daily(["a"]), date=DAY)
    before = tree(warehouse.root)
    good = query_daily(["a", "b"])
    null = good.set_column(1, "query", pa.array(["x", None]))
    bad = {
        r"missing clicks \(int64\)": good.drop_columns(["clicks"]),
        "not expected colour": good.append_column("colour", pa.array(["x", "y"])),
        "clicks is int32, expected int64": good.set_column(3, "clicks", pa.array([1, 2], pa.int32())),
        "query is int64, expected string": good.set_column(1, "query", pa.array([1, 2])),
        r"null in required columns query \(1\)": null,
        "1 values of the key": pa.concat_tables([good, query_daily(["a"])]),
    }
    for message, rows in bad.items():
        with pytest.raises(TableCheckError, match=message) as caught:
            warehouse.publish("query_daily", rows, date=DAY)
        assert "query_daily" in str(caught.value) and DAY in str(caught.value)
    assert tree(warehouse.root) == before and staged(warehouse.root) == []


def test_a_callers_check_sees_the_staged_files_and_can_refuse(warehouse):
    seen = []

    def at_most_one_row(folder):
        seen.append(pq.read_table(folder).num_rows)
        if seen[-1] > 1:
            raise HemlineError("too many rows")

    warehouse.publish("query_daily", query_daily(["a"]), checks=[at_most_one_row], date=DAY)
    with pytest.raises(HemlineError, match="too many rows"):
        warehouse.publish("query_daily", query_daily(["a", "b"]), checks=[at_most_one_row], date=DAY)
    assert seen == [1, 2]
    assert warehouse.read("query_daily").num_rows == 1 and staged(warehouse.root) == []


def test_other_spellings_of_the_same_types_are_taken(warehouse):
    rows = query_daily(["a"])
    spelled = rows.set_column(1, "query", rows["query"].cast(pa.large_string()))
    spelled = spelled.set_column(0, "category", rows["category"].dictionary_encode())
    assert warehouse.publish("query_daily", spelled, date=DAY).changed
    assert not warehouse.publish("query_daily", rows, date=DAY).changed
    nulls = catalog(["a"]).set_column(7, "available", pa.nulls(1))
    assert warehouse.publish("catalog", nulls).rows == 1


def test_rows_without_a_key_may_repeat(warehouse):
    row = {"event_id": None, "reason": "unknown action", "source_file": "f.csv", "row": "{}"}
    rows = pa.Table.from_pylist([row] * 3, schema=TABLES["rejected_interactions"].schema)
    assert warehouse.publish("rejected_interactions", rows, date=DAY).rows == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.publish("query_dayly", query_daily(["a"]), date=DAY), "unknown table 'query_dayly'"),
        (lambda w: w.publish("query_daily", query_daily(["a"])), r"each of \['date'\], got \[\]"),
        (lambda w: w.publish("query_daily", query_daily(["a"]), date=DAY, category="x"), "got .*category"),
        (lambda w: w.publish("query_daily", query_daily(["a"]), date="20.11.2026"), "YYYY-MM-DD"),
        (lambda w: w.publish("query_daily", query_daily(["a"]), date="2026-02-30"), "YYYY-MM-DD"),
        (lambda w: w.location("prompts", category=""), "non-empty"),
        (lambda w: w.location("recommendations", category="Clothing"), "outermost first"),
        (lambda w: w.read("catalog", date=DAY), "levels"),
        (lambda w: w.level_values("catalog", "date"), "not 'date'"),
        (lambda w: Warehouse("s3://bucket/tables"), "expected a folder"),
    ],
)
def test_wrong_names_are_refused_in_words(warehouse, call, message):
    with pytest.raises(BadInputError, match=message):
        call(warehouse)
    assert tree(warehouse.root) == {}


CATEGORIES = ["Luggage & Bags", "Men's/Boys'", "50% off", "a=b", "Schöne Schuhe", "x[1]{2}*?", "007", "C:\\#", "1.0"]


def test_category_names_are_written_as_spark_writes_them(warehouse, spark, tmp_path):
    frame = spark.createDataFrame([(c, 1) for c in CATEGORIES], "category string, n int")
    frame.write.partitionBy("category").parquet(str(tmp_path / "spark"))
    theirs = sorted(p.name for p in (tmp_path / "spark").glob("category=*"))
    assert theirs == sorted(Path(warehouse.location("prompt_perplexity", category=c)).name for c in CATEGORIES)


def test_any_category_name_comes_back_from_every_reader(warehouse, spark):
    rows = pa.Table.from_pylist(
        [{"example_id": "e", "variant": "all", "perplexity": 2.0, "trained_longer": True}],
        schema=TABLES["prompt_perplexity"].schema,
    )
    for category in CATEGORIES:
        warehouse.publish("prompt_perplexity", rows, category=category)
    expected = sorted(CATEGORIES)
    assert warehouse.level_values("prompt_perplexity", "category") == expected
    assert sorted(warehouse.read("prompt_perplexity")["category"].to_pylist()) == expected
    frame = warehouse.frame(spark, "prompt_perplexity")
    assert sorted(r.category for r in frame.collect()) == expected
    assert [r.category for r in warehouse.frame(spark, "prompt_perplexity", category="007").collect()] == ["007"]
    glob = str(warehouse.root / "prompt_perplexity" / "*" / "*.parquet")
    query = f"SELECT category FROM read_parquet('{glob}', hive_partitioning=true, hive_types_autocast=false)"
    assert sorted(c for (c,) in duckdb.sql(query).fetchall()) == expected
    plain = pd.read_parquet(warehouse.root / "prompt_perplexity")
    assert len(plain) == len(CATEGORIES)


def test_a_level_that_is_also_a_column_is_read_from_the_rows(warehouse, spark):
    """A pooled partition of prompts holds rows of several categories."""
    spec = TABLES["prompts"]
    values = {c.name: "x" for c in spec.columns if pa.types.is_string(c.type)}
    rows = [
        {
            **values,
            "example_id": str(n),
            "category": c,
            "target_date": date(2026, 1, 1),
            "input_ids": [1],
            "response_ids": [2],
        }
        for n, c in enumerate(["Clothing", "Footwear"])
    ]
    warehouse.publish("prompts", pa.Table.from_pylist(rows, schema=spec.schema), category="all")
    assert warehouse.read("prompts")["category"].to_pylist() == ["Clothing", "Footwear"]
    assert warehouse.read("prompts", category="all").schema.names == spec.names
    assert sorted(r.category for r in warehouse.frame(spark, "prompts").collect()) == ["Clothing", "Footwear"]


def frame_of(spark, table):
    """A pyarrow table as a Spark frame with the same types."""
    from ml.warehouse.spark_io import spark_schema

    (spec,) = [t for t in TABLES.values() if t.names == table.column_names]
    rows = [tuple(r[n] for n in table.column_names) for r in table.to_pylist(maps_as_pydicts="strict")]
    return spark.createDataFrame(rows, spark_schema(spec))


@pytest.mark.parametrize("small_bytes", [2**26, 0])
@pytest.mark.parametrize(
    ("name", "rows", "levels"),
    [
        ("user_histories", histories(["u3", "u1", "u2"]), {"date": DAY}),
        ("catalog", catalog(["b", "a"]), {}),
        ("query_daily", query_daily(["b", "a", "c"]), {"date": DAY}),
    ],
)
def test_spark_frames_round_trip_as_arrow_tables_do(tmp_path, spark, name, rows, levels, small_bytes):
    """Both as one small file in our writing, and as the files that Spark wrote."""
    warehouse = Warehouse(tmp_path, small_bytes=small_bytes, grace_seconds=0)
    frame = frame_of(spark, rows)
    with_levels = frame.withColumns({level: F.lit(value) for level, value in levels.items()})
    done = warehouse.publish_frame(name, with_levels, **levels)
    assert done.changed and done.rows == rows.num_rows
    assert not warehouse.publish_frame(name, frame.repartition(3), **levels).changed
    back = warehouse.read(name, **levels)
    key = [(k, "ascending") for k in TABLES[name].key]
    assert back.schema.equals(TABLES[name].schema)
    assert back.sort_by(key).to_pylist() == rows.sort_by(key).to_pylist()
    as_frame = warehouse.frame(spark, name, **levels)
    assert sorted(as_frame.drop("date").collect()) == sorted(frame.collect())
    if small_bytes:
        assert not warehouse.publish(name, rows, **levels).changed, "Spark and Arrow rows give the same bytes"
        assert done.files == 1
        assert pq.read_schema(next(Path(done.location).iterdir())).equals(TABLES[name].schema, check_metadata=False)


def test_bad_frames_are_refused(warehouse, spark):
    good = frame_of(spark, query_daily(["a", "b"]))
    bad = {
        "missing clicks": good.drop("clicks"),
        "not expected colour": good.withColumn("colour", F.lit("x")),
        "clicks is int, expected bigint": good.withColumn("clicks", F.lit(1)),
        "null in required columns query": good.withColumn("query", F.lit(None)),
        "1 values of the key": good.union(good.limit(1)),
    }
    for message, frame in bad.items():
        with pytest.raises(TableCheckError, match=message):
            warehouse.publish_frame("query_daily", frame, date=DAY)
    assert tree(warehouse.root) == {} and staged(warehouse.root) == []


def test_an_error_in_the_frames_own_computation_is_not_blamed_on_the_disk(warehouse, spark):
    frame = frame_of(spark, query_daily(["a"])).withColumn(
        "query", F.raise_error(F.lit("broken on purpose")).cast("string")
    )
    with pytest.raises(Exception, match="broken on purpose") as caught:
        warehouse.publish_frame("query_daily", frame, date=DAY)
    assert not isinstance(caught.value, HemlineError)
    assert staged(warehouse.root) == []


@pytest.mark.parametrize("small_bytes", [2**26, 0])
def test_many_days_come_from_one_write(tmp_path, spark, small_bytes):
    warehouse = Warehouse(tmp_path, small_bytes=small_bytes, grace_seconds=0)
    days = [f"2026-11-{d:02}" for d in range(1, 13)]
    rows = [(day, f"i{n}") for i, day in enumerate(days) if i != 4 for n in range(20 + i)]
    base = frame_of(spark, query_daily(["x"])).drop("item_id")
    frame = spark.createDataFrame(rows, "date string, item_id string").crossJoin(base)
    done = warehouse.publish_days("query_daily", frame, days)
    assert [p.levels["date"] for p in done] == days == warehouse.days("query_daily")
    assert [p.rows for p in done] == [0 if i == 4 else 20 + i for i in range(12)]
    assert all(p.files == 1 and p.changed for p in done)
    assert not any(p.changed for p in warehouse.publish_days("query_daily", frame.repartition(5), days))
    items = warehouse.read("query_daily", date=days[5])["item_id"].to_pylist()
    assert items == sorted(items) and len(items) == 25, "sorted by key"
    assert warehouse.frame(spark, "query_daily", days=(days[2], days[5])).count() == 22 + 23 + 0 + 25
    some = warehouse.frame(spark, "query_daily", days=[days[0], days[9], "2027-01-01"])
    assert {r.date: r["count"] for r in some.groupBy("date").count().collect()} == {days[0]: 20, days[9]: 29}
    assert warehouse.frame(spark, "query_daily", days=[]).count() == 0
    assert staged(warehouse.root) == []


def test_rows_of_other_days_are_refused(warehouse, spark):
    frame = frame_of(spark, query_daily(["a"]))
    for day in ("2026-11-21", None):
        with pytest.raises(TableCheckError, match="not to be published"):
            warehouse.publish_days("query_daily", frame.withColumn("date", F.lit(day).cast("string")), [DAY])
    with pytest.raises(TableCheckError, match="column date"):
        warehouse.publish_days("query_daily", frame, [DAY])
    assert not warehouse.exists("query_daily")


def test_writers_of_a_partition_wait_for_each_other(tmp_path):
    """Eight threads publish their own version: what is there in the end is one of them, whole, and none overlapped."""
    inside, overlaps = [], []

    def at(point):
        if point == "staged":
            overlaps.append(len(inside))
            inside.append(1)
        elif point == "after exchange":
            inside.pop()

    root = tmp_path / "w"
    errors = []

    def publish(version):
        try:
            Warehouse(root, on_point=at).publish("query_daily", query_daily(["a", "b", "c"], clicks=version), date=DAY)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(v,)) for v in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and overlaps == [0] * 8
    clicks = Warehouse(root).read("query_daily")["clicks"].to_pylist()
    assert len(clicks) == 3 and len(set(clicks)) == 1


def test_a_writer_that_waits_too_long_says_what_to_do(tmp_path):
    slow = threading.Event()
    entered = threading.Event()

    def at(point):
        if point == "staged":
            entered.set()
            slow.wait(10)

    first = Warehouse(tmp_path, on_point=at)
    thread = threading.Thread(target=lambda: first.publish("query_daily", query_daily(["a"]), date=DAY))
    thread.start()
    entered.wait(10)
    with pytest.raises(HemlineError, match="another process has been publishing"):
        Warehouse(tmp_path, lock_seconds=0.1).publish("query_daily", query_daily(["b"]), date=DAY)
    other = Warehouse(tmp_path, lock_seconds=0.1).publish("query_daily", query_daily(["b"]), date="2026-11-21")
    assert other.changed, "another partition does not wait"
    slow.set()
    thread.join()
    assert Warehouse(tmp_path).read("query_daily", date=DAY)["item_id"].to_pylist() == ["a"]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
times = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(tzinfo=UTC))
steps = st.fixed_dictionaries(
    {
        "event_time": st.none() | times,
        "event_id": st.none() | texts,
        "action": texts,
        "item_id": st.none() | texts,
        "query": st.none() | texts,
        "position": st.none() | st.integers(-(2**31), 2**31 - 1),
    }
)
users = st.lists(
    st.fixed_dictionaries(
        {
            "category": texts,
            "user_id": texts,
            "steps": st.lists(steps, max_size=3),
            "item_steps": st.integers(0, 2**31 - 1),
            "recent_events": st.integers(0, 9),
        }
    ),
    max_size=12,
    unique_by=lambda row: (row["category"], row["user_id"]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=users, shuffle=st.randoms(use_true_random=False))
def test_publish_and_read_round_trip_and_republish_changes_nothing(rows, shuffle):
    schema = TABLES["user_histories"].schema
    assert schema.field("steps").type == pa.list_(STEP) and STEP.field("event_time").type == TIME
    with tempfile.TemporaryDirectory() as root:
        warehouse = Warehouse(root, grace_seconds=0)
        assert warehouse.publish("user_histories", pa.Table.from_pylist(rows, schema=schema), date=DAY).changed
        before = tree(warehouse.root)
        back = warehouse.read("user_histories", date=DAY).to_pylist()
        assert back == sorted(rows, key=lambda r: (r["category"].encode(), r["user_id"].encode()))
        shuffled = shuffle.sample(rows, len(rows))
        again = warehouse.publish("user_histories", pa.Table.from_pylist(shuffled, schema=schema), date=DAY)
        assert not again.changed and tree(warehouse.root) == before
