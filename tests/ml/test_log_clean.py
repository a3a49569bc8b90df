"""Clean events and rejected rows: each rule, each day, nothing twice and nothing lost."""

import json
import random
from datetime import date, timedelta
from pathlib import Path

import pytest

from ml.errors import BadInputError
from ml.log import check_reject_share, clean, partition_window, read_raw
from ml.log.clean import MALFORMED_LINE, REASONS, UNPARSEABLE_TIME, WRONG_TYPE
from ml.settings import LogSettings
from ml.tables import TABLES
from tests.ml.raw_logs import at, event, write_csv, write_parquet

DAY = "2026-03-02"
BERLIN = LogSettings(time_zone="Europe/Berlin")


@pytest.fixture(scope="module")
def items(spark):
    return spark.createDataFrame(
        [("i1", "Shoes"), ("i2", "Bags"), ("i3", None)], "item_id string, category string"
    ).cache()


def make(spark, items, folder: Path, days=(DAY,), settings=LogSettings()) -> tuple[list[dict], list[dict]]:  # noqa: B008
    """The clean and the rejected rows of `days`, each sorted."""
    raw = read_raw(spark, folder, partition_window(list(days), settings.late_days))
    tables = [frame.toArrow().to_pylist() for frame in clean(raw, items, list(days), settings)]
    return tuple(sorted(rows, key=lambda row: json.dumps(row, default=str, sort_keys=True)) for rows in tables)


SOUND = [
    event("s1", "2026-03-02 10:00:00", action="search", query=" Ｒed  DRESS", item_id=None),
    event("s2", "2026-03-02 10:00:01", query="red\0 dress", position=1),
    event("s3", "2026-03-02 10:00:02", action="purchase", item_id="i2"),
    event("s4", "2026-03-02 10:00:03", item_id="i3", session_id=" "),
    event("s5", "2026-03-02 10:00:04", action="search", query="x", item_id="gone", position=0),
    event("s6", "2026-03-02 10:00:05", query="\u200b"),
    event("x" * 256, "2026-03-02 10:00:06"),
]
BROKEN = {
    "missing event_id": [event(None), event("  ")],
    "missing user_id": [event("b1", user_id=None), event("b2", user_id="")],
    "missing event_time": [event("b3", None)],
    "missing action": [event("b4", action=None)],
    "unknown action": [event("b5", action="add_to_cart"), event("b6", action="Click")],
    "id longer than 256 characters": [event("b" * 257), event("b7", item_id="i" * 300),
                                      event("b8", session_id="s" * 257)],
    "id with control characters": [event("b\0"), event("b9", user_id="u\u202e1"), event("b10", item_id="i\n1")],
    "event day outside its partition's window": [
        event("b11", "2026-02-28 23:59:59"), event("b12", "2026-03-04 00:00:00"), event("b13", "1970-01-01 00:00:00"),
    ],
    "search without query": [
        event("b14", action="search", query=None), event("b15", action="search", query=" \u200b"),
    ],
    "click or purchase without item": [event("b16", item_id=None), event("b17", action="purchase", item_id=" ")],
    "item not in the catalogue": [event("b18", item_id="i9"), event("b19", item_id="I1")],
    "position below 1": [event("b20", position=0), event("b21", position=-3)],
    "duplicate": [SOUND[1]],
}  # fmt: skip


def test_sound_rows_stay_and_every_broken_row_is_kept_whole_with_its_reason(spark, items, tmp_path):
    path = write_parquet(tmp_path, DAY, SOUND + [row for rows in BROKEN.values() for row in rows])
    clean_rows, rejected = make(spark, items, tmp_path)
    assert {row["event_id"] for row in clean_rows} == {row["event_id"] for row in SOUND}
    found = {
        reason: {json.loads(row["row"]).get("event_id") for row in rejected if row["reason"] == reason}
        for reason in BROKEN
    }
    assert found == {reason: {row["event_id"] for row in rows} for reason, rows in BROKEN.items()}
    assert len(rejected) == sum(map(len, BROKEN.values()))
    assert {row["source_file"] for row in rejected} == {str(path.relative_to(tmp_path))}
    assert all(row["event_id"] is None or len(row["event_id"]) <= 256 for row in rejected)
    assert set(BROKEN) < set(REASONS)


def test_a_rejected_row_is_whole_json_of_what_was_read(spark, items, tmp_path):
    row = event("b", "2026-03-02 10:00:00.5", item_id="i9", query='"q"\n', position=7, session_id="s")
    write_parquet(tmp_path, DAY, [row])
    (rejected,) = make(spark, items, tmp_path)[1]
    assert json.loads(rejected["row"]) == row | {"event_time": "2026-03-02T10:00:00.500000Z", "position": "7"}


def test_values_that_are_no_times_or_numbers_and_lines_that_are_no_rows_are_rejected(spark, items, tmp_path):
    rows = [event("e1"), event("e2") | {"event_time": "noon"}, event("e3", position="3rd"), event("e4", position=1)]
    with write_csv(tmp_path, DAY, rows).open("a") as file:
        file.write("nonsense\n")
    clean_rows, rejected = make(spark, items, tmp_path)
    assert {row["event_id"] for row in clean_rows} == {"e1", "e4"}
    assert {row["reason"]: json.loads(row["row"]) for row in rejected} == {
        UNPARSEABLE_TIME: {k: v for k, v in rows[1].items() if v is not None},
        WRONG_TYPE: {k: v for k, v in rows[2].items() if v is not None} | {"event_time": "2026-03-02T10:00:00.000000Z"},
        MALFORMED_LINE: {"line": "nonsense", "event_id": "nonsense"},
    }


def test_clean_rows_have_the_table_s_columns_normalised_queries_and_originals(spark, items, tmp_path):
    write_parquet(tmp_path, DAY, SOUND)
    by_id = {row["event_id"]: row for row in make(spark, items, tmp_path)[0]}
    assert list(by_id["s1"]) == ["date", *TABLES["interactions"].names]
    assert (by_id["s1"]["query"], by_id["s1"]["query_original"]) == ("red dress", " Ｒed  DRESS")
    assert (by_id["s2"]["query"], by_id["s2"]["query_original"]) == ("red dress", "red dress")
    assert (by_id["s5"]["item_id"], by_id["s5"]["position"]) == (None, None)
    assert by_id["s6"]["query"] is None
    assert [by_id[name]["category"] for name in ("s2", "s3", "s4")] == ["Shoes", "Bags", "other"]
    assert by_id["s2"]["event_time"] == at("2026-03-02 10:00:01")


def test_the_day_is_the_shop_s_and_late_and_early_rows_find_it(spark, items, tmp_path):
    # Berlin is one hour ahead: its 2 March begins at 23:00 UTC of the 1st.
    write_parquet(
        tmp_path, "2026-03-01", [event("early", "2026-03-01 23:30:00"), event("before", "2026-03-01 22:59:59")]
    )
    write_parquet(tmp_path, "2026-03-03", [event("late", "2026-03-02 22:59:59"), event("next", "2026-03-02 23:00:00")])
    write_parquet(tmp_path, "2026-03-04", [event("too late", "2026-03-02 12:00:00")])
    made = {day: make(spark, items, tmp_path, [day], BERLIN) for day in ("2026-03-01", DAY, "2026-03-03", "2026-03-04")}
    assert {day: {row["event_id"] for row in rows} for day, (rows, _) in made.items()} == {
        "2026-03-01": {"before"}, DAY: {"early", "late"}, "2026-03-03": {"next"}, "2026-03-04": set(),
    }  # fmt: skip
    assert [(day, row["event_id"], row["date"]) for day, (_, rows) in made.items() for row in rows] == [
        ("2026-03-04", "too late", "2026-03-04")
    ]


def test_of_rows_with_one_id_the_earliest_stays_wherever_it_stands(spark, items, tmp_path):
    write_parquet(tmp_path, DAY, [event("e1", "2026-03-02 12:00:00", user_id="second"), event("same")])
    write_parquet(tmp_path, "2026-03-03", [event("e1", "2026-03-02 11:00:00", user_id="first"), event("same")])
    clean_rows, rejected = make(spark, items, tmp_path)
    assert {row["event_id"]: row["user_id"] for row in clean_rows} == {"e1": "first", "same": "u1"}
    assert [(row["event_id"], row["reason"]) for row in rejected] == [("e1", "duplicate"), ("same", "duplicate")]
    assert {row["source_file"][:21] for row in rejected if row["event_id"] == "same"} == {"event_date=2026-03-03"}


def test_a_broken_row_does_not_make_a_sound_one_a_duplicate(spark, items, tmp_path):
    write_parquet(tmp_path, DAY, [event("e1", "2026-03-02 09:00:00", item_id="i9"), event("e1", user_id="sound")])
    clean_rows, rejected = make(spark, items, tmp_path)
    assert [row["user_id"] for row in clean_rows] == ["sound"]
    assert [row["reason"] for row in rejected] == ["item not in the catalogue"]


def messy_log(folder: Path, seed: int) -> int:
    """Write four days of rows that are late, early, doubled (across days too) or broken; return their number."""
    rng = random.Random(seed)
    days = [date(2026, 3, 1) + timedelta(n) for n in range(4)]
    rows = 0
    for day in days:
        batch = []
        for _ in range(60):
            time = at(f"{day} 00:00:00") + timedelta(hours=rng.choice([rng.uniform(0, 24), rng.uniform(-60, 50)]))
            action = rng.choice(["search", "click", "purchase", "click", "view"])
            batch.append(
                event(
                    f"e{rng.randrange(90)}" if rng.random() < 0.9 else None,
                    time.isoformat(sep=" ")[:19] if rng.random() < 0.95 else None,
                    user_id=f"u{rng.randrange(6)}",
                    session_id=rng.choice([None, "s1", "s2"]),
                    action=action,
                    item_id=rng.choice(["i1", "i2", "i3", "i4"]),
                    query=rng.choice(["a", "B", None]),
                )
            )
        batch += rng.sample(batch, 10)
        write_parquet(folder, day.isoformat(), batch)
        rows += len(batch)
    return rows


@pytest.mark.parametrize(("seed", "late_days"), [(0, 1), (1, 2)])
def test_days_one_by_one_are_the_days_together_and_no_row_is_lost_or_twice(spark, items, tmp_path, seed, late_days):
    settings = LogSettings(time_zone="America/New_York", late_days=late_days)
    written = messy_log(tmp_path, seed)
    # The day before the first partition and the one after the last may hold events too.
    days = [(date(2026, 3, 1) + timedelta(n)).isoformat() for n in range(-late_days, 5)]
    together = make(spark, items, tmp_path, days, settings)
    apart = [make(spark, items, tmp_path, [day], settings) for day in days]
    key = lambda row: json.dumps(row, default=str, sort_keys=True)  # noqa: E731
    for index in (0, 1):
        assert sorted((row for made in apart for row in made[index]), key=key) == together[index]
    assert sum(map(len, together)) == written
    assert {"duplicate", "event day outside its partition's window"} <= {row["reason"] for row in together[1]}
    by_day = [(row["date"], row["event_id"]) for row in together[0]]
    assert len(set(by_day)) == len(by_day)


def test_a_search_gets_the_category_of_the_next_item_step_of_its_session(spark, items, tmp_path):
    def search(event_id: str, time: str, **values) -> dict:
        return event(event_id, time, action="search", item_id=None, query="q", **values)

    rows = [
        search("q1", "2026-03-02 10:00:00", session_id="a"),
        event("c1", "2026-03-02 10:00:01", item_id="i2", session_id="b"),
        search("q2", "2026-03-02 10:00:02", session_id="a"),
        event("c2", "2026-03-02 14:00:00", item_id="i1", session_id="a"),
        event("c3", "2026-03-02 14:00:00", item_id="i2", session_id="a"),
        search("q3", "2026-03-02 15:00:00", session_id="a"),
        search("q4", "2026-03-02 10:00:00", user_id="u2"),
        event("c4", "2026-03-02 10:30:00", item_id="i2", user_id="u2", session_id="z"),
        search("q5", "2026-03-02 10:30:00", user_id="u2"),
        event("c5", "2026-03-02 11:00:01", item_id="i2", user_id="u2"),
        search("q6", "2026-03-02 23:50:00", session_id="late"),
        event("c6", "2026-03-03 00:01:00", session_id="late"),
        search("q7", "2026-03-02 09:59:59", user_id="u3", session_id="a"),
    ]
    write_parquet(tmp_path, DAY, rows)
    found = {row["event_id"]: row["category"] for row in make(spark, items, tmp_path)[0] if row["action"] == "search"}
    assert found == {"q1": "Shoes", "q2": "Shoes", "q3": None, "q4": "Bags", "q5": None, "q6": None, "q7": None}


def test_a_thin_log_of_one_user_without_sessions_or_searches_is_made(spark, items, tmp_path):
    columns = ["event_id", "user_id", "event_time", "action", "item_id"]
    write_csv(tmp_path, DAY, [event(f"e{n}", action="purchase") for n in range(3)], columns)
    clean_rows, rejected = make(spark, items, tmp_path)
    assert len(clean_rows) == 3 and not rejected
    assert {(row["session_id"], row["query"], row["position"]) for row in clean_rows} == {(None, None, None)}


def test_an_empty_day_is_empty(spark, items, tmp_path):
    write_parquet(tmp_path, DAY, [])
    assert make(spark, items, tmp_path) == ([], [])
    assert make(spark, items, tmp_path, ["2030-01-01"]) == ([], [])


def test_a_day_with_too_many_rejects_is_refused_with_counts_by_reason(spark, items, tmp_path):
    write_parquet(tmp_path, DAY, [event(f"e{n}") for n in range(9)] + [event("b", item_id="i9")])
    write_parquet(tmp_path, "2026-03-03", [event("f", "2026-03-03 10:00:00")])
    days = [DAY, "2026-03-03"]
    frames = clean(read_raw(spark, tmp_path, days), items, days, LogSettings())
    assert check_reject_share(*frames, LogSettings(max_reject_share=0.1)) == {
        DAY: {"accepted": 9, "item not in the catalogue": 1}, "2026-03-03": {"accepted": 1},
    }  # fmt: skip
    with pytest.raises(BadInputError, match=r"2026-03-02: 1 of 10 rows \(1 item not in the catalogue\)") as caught:
        check_reject_share(*frames, LogSettings(max_reject_share=0.09))
    assert "2026-03-03" not in str(caught.value)
