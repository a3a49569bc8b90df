"""Damaged input through the real jobs: the run says what is wrong, and published tables stay as they were."""

from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_shop import DAYS, EVE, LAST, Shop, event, save_language_model, save_text_encoder, write_events

from ml.errors import BadInputError
from pipelines import flows
from pipelines.run import RunFailedError, Runner


@pytest.fixture
def spoiled(eve_shop, tmp_path):
    """A copy of the shop before its last night, to be spoiled."""
    return eve_shop.copy(tmp_path / "spoiled")


def simulated(shop, day=LAST):
    """The largest file of a raw partition."""
    return max(shop.raw(day).glob("*.parquet"), key=lambda path: path.stat().st_size)


def rewrite(path, change):
    """Rewrite a Parquet file."""
    table = change(pq.ParquetFile(path).read())
    pq.write_table(table, path, write_page_checksum=True)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(path):
    rewrite(path, lambda table: table)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)


def lose_a_column(path):
    rewrite(path, lambda table: table.drop_columns("user_id"))


def times_of_nonsense(path):
    rewrite(
        path, lambda t: t.set_column(t.schema.get_field_index("event_time"), "event_time", pa.array(["x"] * len(t)))
    )


def unknown_actions(path):
    rewrite(path, lambda t: t.set_column(t.schema.get_field_index("action"), "action", pa.array(["stare"] * len(t))))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (truncate, ["{file}"]),
        (flip_a_byte, ["{file}"]),
        (lose_a_column, ["{file}", "user_id"]),
        (times_of_nonsense, ["{file}", "event_time"]),
        (unknown_actions, ["max_reject_share", "unknown action", LAST]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_log_fails_the_night_and_changes_no_table(spoiled, harm, words):
    path = simulated(spoiled)
    harm(path)
    before = spoiled.published()
    with pytest.raises(RunFailedError) as error:
        flows.nightly(Runner(spoiled.settings), LAST)
    for word in words:
        assert word.format(file=path.name) in str(error.value)
    assert "BadInputError" not in str(error.value), "a sentence, not a class"
    assert spoiled.published() == before


def test_a_damaged_catalogue_fails_the_night_and_changes_no_table(spoiled):
    catalog = spoiled.folder / "raw" / "catalog.parquet"
    before = spoiled.published()
    rewrite(catalog, lambda table: table.drop_columns("title"))
    with pytest.raises(RunFailedError, match=r"catalog_columns\.title"):
        flows.nightly(Runner(spoiled.settings), LAST)
    truncate(catalog)
    with pytest.raises(RunFailedError, match=r"catalog\.parquet"):
        flows.nightly(Runner(spoiled.settings), LAST)
    assert spoiled.published() == before


def test_an_extra_column_is_left_out(spoiled, shop):
    rewrite(simulated(spoiled), lambda table: table.append_column("note", pa.array(["x"] * len(table))))
    Runner(spoiled.settings).run("ingest", days=(LAST, LAST))
    assert spoiled.rows("interactions", date=LAST) == shop.rows("interactions", date=LAST)


def test_an_empty_day_carries_the_lists_of_those_still_active(spoiled):
    for path in spoiled.raw(LAST).glob("*.parquet"):
        rewrite(path, lambda table: table.slice(0, 0))
    flows.nightly(Runner(spoiled.settings), LAST)
    assert spoiled.rows("interactions", date=LAST) == []
    for category in ("Clothing", "Bags"):
        was = {(r["user_id"], r["rank"]): r for r in spoiled.rows("recommendations", date=EVE, category=category)}
        now = {(r["user_id"], r["rank"]): r for r in spoiled.rows("recommendations", date=LAST, category=category)}
        assert set(was) == set(now)
        was, now = (
            {row["user_id"]: row for row in spoiled.rows("generations", date=day, category=category)}
            for day in (EVE, LAST)
        )
        assert all(now[user] == row for user, row in was.items()), "no prompt changed, so no answer was written again"
    assert all(r["buyers"] == 0 and r["value"] is None for r in spoiled.rows("realised", date=LAST))


def test_customers_the_model_no_longer_runs_for_keep_their_list(spoiled):
    for path in spoiled.raw(LAST).glob("*.parquet"):
        rewrite(path, lambda table: table.slice(0, 0))
    spoiled.change(generation={"max_new_tokens": 12, "max_users": 1, "chunk_users": 4})
    flows.nightly(Runner(spoiled.settings), LAST)
    for category in ("Clothing", "Footwear"):
        was = {(r["user_id"], r["rank"]): r for r in spoiled.rows("recommendations", date=EVE, category=category)}
        carried = [r for r in spoiled.rows("recommendations", date=LAST, category=category) if r["source"] == "carried"]
        assert carried or category == "Footwear"
        for row in carried:
            old = was[row["user_id"], row["rank"]]
            assert row | {"source": old["source"]} == old and row["listed_on"] == EVE


def test_a_shop_with_one_customer_gets_its_tables(spark, eve_shop, tmp_path):
    shop = Shop(tmp_path)
    (tmp_path / "raw").mkdir()
    catalog = pq.read_table(eve_shop.folder / "raw" / "catalog.parquet")
    pq.write_table(catalog.filter(pc.field("category") == "Bags"), tmp_path / "raw" / "catalog.parquet")
    for number, day in enumerate(DAYS[:6]):
        bag = {"item_id": f"bag-{number % 5}"}
        write_events(shop, day, [event(f"c{number}", day, **bag), event(f"p{number}", day, action="purchase", **bag)])
    save_language_model(tmp_path / "tiny-llama")
    save_text_encoder(tmp_path / "tiny-bert")
    text = eve_shop.file.read_text().replace(str(eve_shop.folder), str(tmp_path))
    shop.file.write_text(text)
    shop.change(categories=["Bags"], pooled_categories=[])
    runner = Runner(shop.settings)
    flows.train(runner)
    flows.nightly(runner, DAYS[5])
    rows = shop.rows("recommendations", date=DAYS[5], category="Bags")
    assert [row["user_id"] for row in rows] == ["bag-lover"] * 5
    flows.evaluate(runner)


def test_a_day_that_goes_on_is_no_partition_yet(eve_shop, tmp_path):
    shop = eve_shop.copy(tmp_path / "shop")
    shop.change(log={"time_zone": "Pacific/Kiritimati", "max_reject_share": 0.1})  # the first to see a new day
    today = datetime.now(shop.settings.log.zone).date().isoformat()
    write_events(shop, today, [event("early", today)])
    runner = Runner(shop.settings)
    with pytest.raises(BadInputError, match=rf"--date {today}: this day is not over in Pacific/Kiritimati"):
        flows.known_day(runner, today)
    assert flows.newest_raw_day(runner) < today
