"""The raw log as shops write it: formats, types, damaged and odd files."""

import gzip
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError
from ml.log import partition_window, raw_days, read_raw
from ml.log.files import probe
from ml.log.raw import COLUMNS
from tests.ml.raw_logs import SCHEMA, at, event, write_csv, write_json, write_parquet, write_table

DAY = "2026-03-02"
ROWS = [
    event("e1", "2026-03-02 10:00:00", action="search", item_id=None, query='a "red", dress', session_id="s1"),
    event("e2", "2026-03-02 10:00:01.250000", query='a "red", dress', position=3, session_id="s1"),
    event("e3", "2026-03-02 23:59:59", action="purchase", item_id="i\u00e9 2"),
]


def read(spark, folder: Path, *days: str) -> list[dict]:
    """The rows of a raw log, sorted by event_id, times as UTC."""
    frame = read_raw(spark, folder, days or (DAY,))
    rows = pa.table(frame.toArrow()).sort_by("event_id").to_pylist()
    return [row | {"unread": dict(row["unread"] or [])} for row in rows]


def contract(rows: list[dict]) -> list[dict]:
    return [{name: row[name] for name in COLUMNS} for row in rows]


def with_column(name: str, values: pa.Array | None) -> pa.Table:
    """A sound day of as many rows as `values`, with one column replaced (None: removed)."""
    count = 2 if values is None else len(values)
    table = pa.Table.from_pylist([event(f"e{n}") for n in range(count)], schema=SCHEMA)
    index = table.schema.get_field_index(name)
    return table.remove_column(index) if values is None else table.set_column(index, name, values)


def test_days_are_the_partition_folders(tmp_path):
    for name in ("event_date=2026-03-02", "event_date=2026-02-28", "_temporary", "notes"):
        (tmp_path / name).mkdir()
    assert raw_days(tmp_path) == ["2026-02-28", "2026-03-02"]


@pytest.mark.parametrize(
    "name", ["event_date=2026-02-30", "event_date=20260302", "event_date=__HIVE_DEFAULT_PARTITION__"]
)
def test_a_partition_whose_date_is_no_date_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(BadInputError, match=name):
        raw_days(tmp_path)


def test_a_log_that_is_not_there_or_empty_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInputError, match=str(folder)):
            raw_days(folder)


def test_a_day_is_made_from_the_partition_before_it_to_the_late_ones_after():
    assert partition_window(["2026-03-01"], 2) == ["2026-02-28", "2026-03-01", "2026-03-02", "2026-03-03"]
    assert partition_window(["2026-03-02", "2026-03-01"], 0) == ["2026-02-28", "2026-03-01", "2026-03-02"]


def test_every_format_gives_the_same_rows(spark, tmp_path):
    write_parquet(tmp_path / "parquet", DAY, ROWS)
    write_csv(tmp_path / "csv", DAY, ROWS)
    write_csv(tmp_path / "csv2", DAY, ROWS, [*reversed(COLUMNS), "extra"])
    write_json(tmp_path / "json", DAY, ROWS)
    write_json(tmp_path / "zipped", DAY, ROWS, zipped=True)
    found = {name: contract(read(spark, tmp_path / name)) for name in ("parquet", "csv", "csv2", "json", "zipped")}
    assert all(rows == ROWS for rows in found.values()), found


def test_days_of_mixed_formats_read_together_and_say_where_each_row_is_from(spark, tmp_path):
    folder = tmp_path / "a log {of} [odd] *names é+%20"
    write_parquet(folder, "2026-03-01", ROWS[:1], "part 0 %41+[x].parquet")
    write_csv(folder, DAY, ROWS[1:2])
    write_json(folder, "2026-03-03", ROWS[2:])
    (folder / "event_date=2026-03-03" / "_SUCCESS").touch()
    rows = read(spark, folder, "2026-03-01", DAY, "2026-03-03", "2026-03-04")
    assert contract(rows) == ROWS
    assert [row["source_file"] for row in rows] == [
        "event_date=2026-03-01/part 0 %41+[x].parquet",
        f"event_date={DAY}/events.csv",
        "event_date=2026-03-03/events.jsonl",
    ]


def test_only_the_days_asked_for_are_read(spark, tmp_path):
    write_parquet(tmp_path, DAY, ROWS)
    write_parquet(tmp_path, "2026-03-03", [event("later")])
    assert [row["event_id"] for row in read(spark, tmp_path)] == ["e1", "e2", "e3"]
    assert read(spark, tmp_path, "2026-03-09") == []


def test_an_empty_day_has_no_rows(spark, tmp_path):
    write_parquet(tmp_path, DAY, [])
    write_csv(tmp_path, DAY, [])
    write_json(tmp_path, DAY, [])
    (tmp_path / "event_date=2026-03-03").mkdir()
    assert read(spark, tmp_path, DAY, "2026-03-03") == []


def test_missing_optional_columns_are_null_and_extra_ones_left_out(spark, tmp_path):
    thin = pa.Table.from_pylist([event()], schema=SCHEMA).drop_columns(["session_id", "query", "position"])
    write_table(tmp_path, DAY, thin.append_column("device", pa.array([[{"os": "x"}]])))
    (row,) = read(spark, tmp_path)
    assert (row["session_id"], row["query"], row["position"], row["item_id"]) == (None, None, None, "i1")
    assert "device" not in row


@pytest.mark.parametrize("name", ["event_id", "user_id", "event_time", "action", "item_id"])
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_missing_required_column_is_named_with_its_file(spark, tmp_path, name, kind):
    if kind == "parquet":
        path = write_table(tmp_path, DAY, with_column(name, None))
    else:
        path = write_csv(tmp_path, DAY, ROWS, [column for column in COLUMNS if column != name])
    with pytest.raises(BadInputError) as caught:
        read_raw(spark, tmp_path, [DAY])
    assert str(path) in str(caught.value) and repr(name) in str(caught.value)


T = datetime(2026, 3, 2, 9, 30, 0, 123000)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("event_time", pa.array([T], pa.timestamp("ns")), at("2026-03-02 09:30:00.123")),
        ("event_time", pa.array([T], pa.timestamp("ms")), at("2026-03-02 09:30:00.123")),
        ("event_time", pa.array([T], pa.timestamp("us", "America/New_York")), at("2026-03-02 09:30:00.123")),
        ("event_time", pa.array([date(2026, 3, 2)]), at("2026-03-02 00:00:00")),
        ("event_time", pa.array(["2026-03-02T09:30:00.123Z"]), at("2026-03-02 09:30:00.123")),
        ("event_time", pa.array(["2026-03-02 09:30:00.123"]), at("2026-03-02 09:30:00.123")),
        ("event_time", pa.array(["2026-03-02T10:30:00.123+01:00"]), at("2026-03-02 09:30:00.123")),
        ("position", pa.array([3.0]), 3),
        ("position", pa.array([float("nan"), 4.0])[:1], None),
        ("position", pa.array([3], pa.uint64()), 3),
        ("position", pa.array(["3"]), 3),
        ("position", pa.array([None], pa.null()), None),
        ("user_id", pa.array([42], pa.int64()), "42"),
        ("user_id", pa.array([42.0]), "42"),
        ("item_id", pa.array(["i1"]).dictionary_encode(), "i1"),
        ("item_id", pa.array([b"i1"], pa.binary()), "i1"),
        ("query", pa.array(["red"], pa.large_string()), "red"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else str(value)[:26],
)
def test_a_column_of_another_type_is_converted_where_that_is_safe(spark, tmp_path, name, values, expected):
    write_table(tmp_path, DAY, with_column(name, values))
    (row,) = read(spark, tmp_path)
    assert row[name] == expected
    assert row["unread"] == {}


def test_old_96_bit_times_are_read(spark, tmp_path):
    write_table(tmp_path, DAY, with_column("event_time", pa.array([T])), use_deprecated_int96_timestamps=True)
    assert read(spark, tmp_path)[0]["event_time"] == at("2026-03-02 09:30:00.123")


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("event_time", pa.array(["yesterday", "today"]), "yesterday"),
        ("event_time", pa.array([1_772_444_000]), "bigint"),
        ("event_time", pa.array(["1772444000"]), "1772444000"),
        ("position", pa.array([1.5, 2.5]), "double"),
        ("position", pa.array(["first"]), "first"),
        ("position", pa.array([True]), "boolean"),
        ("action", pa.array([True]), "boolean"),
        ("user_id", pa.array([["u1"]]), "list"),
        ("user_id", pa.array([0.5]), "double"),
    ],
)
def test_a_column_that_is_nonsense_as_a_whole_is_named_with_what_was_expected(spark, tmp_path, name, values, found):
    path = write_table(tmp_path, DAY, with_column(name, values))
    with pytest.raises(BadInputError, match="expected") as caught:
        read_raw(spark, tmp_path, [DAY])
    assert all(part in str(caught.value) for part in (str(path), repr(name), found))


def test_a_csv_column_of_nonsense_is_named_too(spark, tmp_path):
    write_csv(tmp_path, DAY, [event(time=None) | {"event_time": "noon"}])
    with pytest.raises(BadInputError, match="'event_time' holds text such as 'noon'"):
        read_raw(spark, tmp_path, [DAY])


def test_single_values_that_cannot_be_converted_are_kept_as_they_were(spark, tmp_path):
    write_csv(
        tmp_path, DAY, [event("e1") | {"event_time": "noon"}, event("e2", position="3rd"), event("e3", position=" 7 ")]
    )
    write_table(tmp_path, DAY, with_column("position", pa.array([1.0, 2.5, 1e12, None])))
    rows = read(spark, tmp_path)
    from_csv = [row for row in rows if row["source_file"].endswith("csv")]
    assert [(row["event_id"], row["position"], row["unread"]) for row in from_csv] == [
        ("e1", None, {"event_time": "noon"}), ("e2", None, {"position": "3rd"}), ("e3", 7, {}),
    ]  # fmt: skip
    assert [(row["position"], list(row["unread"])) for row in rows if row["source_file"].endswith("parquet")] == [
        (1, []), (None, ["position"]), (None, ["position"]), (None, []),
    ]  # fmt: skip


def test_times_beyond_any_calendar_are_no_times(spark, tmp_path):
    for unit in ("ms", "us", "ns"):
        far = pa.array([2**63 - 1, -(2**63) + 1], pa.int64()).view(pa.timestamp(unit, "UTC"))
        write_table(tmp_path, DAY, with_column("event_time", far), f"{unit}.parquet")
    rows = read(spark, tmp_path)
    far_off = [row for row in rows if not row["source_file"].endswith("ns.parquet")]
    assert [(row["event_time"], list(row["unread"])) for row in far_off] == [(None, ["event_time"])] * 4


def test_lines_that_are_no_rows_are_kept_as_they_were(spark, tmp_path):
    with write_csv(tmp_path, DAY, ROWS[:1]).open("a") as file:
        file.write("too,few\n" + ",".join("abcdefghij") + '\ne9,u1,,"2026-03-02 10:00:00,click\n')
    with write_json(tmp_path, DAY, ROWS[1:2]).open("a") as file:
        file.write('{"event_id": "cut\n\n"text"\n')
    rows = read(spark, tmp_path)
    assert [row["event_id"] for row in rows if not row["unread"]] == ["e1", "e2"]
    assert sorted(row["unread"]["line"] for row in rows if row["unread"]) == sorted(
        ["too,few", "a,b,c,d,e,f,g,h,i,j", 'e9,u1,,"2026-03-02 10:00:00,click', '{"event_id": "cut', '"text"']
    )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def garble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60] + b"\xff\xfe\xff" + path.read_bytes()[63:])


@pytest.mark.parametrize(
    ("write", "harm"),
    [(write_parquet, cut), (write_parquet, garble), (write_csv, garble), (write_json, garble),
     (lambda *args: write_json(*args, zipped=True), cut), (write_parquet, lambda path: path.write_bytes(b"")),
     (write_csv, lambda path: path.write_bytes(b"")), (write_json, lambda path: path.write_text("[\n1\n]\n")),
     (write_parquet, lambda path: path.rename(path.with_suffix(".orc")))],
    ids=["cut parquet", "garbled parquet", "garbled csv", "garbled json", "cut gzip", "empty parquet", "empty csv",
         "json array", "unknown kind"],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(spark, tmp_path, write, harm):
    write_parquet(tmp_path, "2026-03-01", ROWS)
    path = write(tmp_path, DAY, ROWS * 20)
    harm(path)
    with pytest.raises(BadInputError) as caught:
        read_raw(spark, tmp_path, ["2026-03-01", DAY])
    assert f"event_date={DAY}/{path.name.split('.')[0]}" in str(caught.value)


def test_a_flipped_byte_anywhere_in_a_parquet_page_is_found_where_the_writer_made_checksums(tmp_path):
    path = write_parquet(
        tmp_path, DAY, [event(f"e{n}") for n in range(50)], write_page_checksum=True, compression="none"
    )
    whole = path.read_bytes()
    at_byte = whole.index(b"e17")
    path.write_bytes(whole[:at_byte] + b"f" + whole[at_byte + 1 :])
    with pytest.raises(BadInputError, match="damaged"):
        probe([path], tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_read_or_named_and_never_anything_else(tmp_path, place, bit):
    path = write_parquet(tmp_path, DAY, [event(f"e{n}", query="red dress") for n in range(20)])
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        (file,) = probe([path], tmp_path, COLUMNS)
    except BadInputError as error:
        assert str(path) in str(error)
    else:
        assert file.head.num_rows == 20


def test_text_that_is_not_utf8_in_parquet_is_found(tmp_path):
    broken = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    path = write_table(tmp_path, DAY, with_column("query", broken))
    with pytest.raises(BadInputError, match="UTF8"):
        probe([path], tmp_path, COLUMNS)


def test_columns_that_differ_in_case_only_or_not_at_all_are_named(spark, tmp_path):
    table = with_column("query", pa.array(["x"]))
    write_table(tmp_path / "case", DAY, table.append_column("Query", pa.array(["y"])))
    write_table(tmp_path / "same", DAY, table.append_column("query", pa.array(["y"])))
    for name in ("case", "same"):
        with pytest.raises(BadInputError, match="rename or remove"):
            read_raw(spark, tmp_path / name, [DAY])


def test_a_header_with_a_byte_order_mark_and_windows_line_ends_is_read(spark, tmp_path):
    path = write_csv(tmp_path, DAY, ROWS[2:])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert contract(read(spark, tmp_path)) == ROWS[2:]
    path.with_name("events.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert contract(read(spark, tmp_path)) == ROWS[2:] * 2


def test_a_json_column_that_first_shows_late_is_read(spark, tmp_path):
    write_json(tmp_path, DAY, [event(f"e{n:04}", session_id="s" if n == 1500 else None) for n in range(1501)])
    assert [row["event_id"] for row in read(spark, tmp_path) if row["session_id"]] == ["e1500"]


def test_hundreds_of_tiny_days_are_one_read(spark, tmp_path):
    days = [date.fromordinal(date(2026, 1, 1).toordinal() + n).isoformat() for n in range(200)]
    for day in days:
        write_parquet(tmp_path, day, [event(f"e{day}", f"{day} 10:00:00")])
    frame = read_raw(spark, tmp_path, days)
    assert frame.count() == 200
    assert frame.rdd.getNumPartitions() < 20
