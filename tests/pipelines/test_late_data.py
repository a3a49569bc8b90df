"""Raw files that come late or are changed, on a real folder, a real Dagster instance and real tables."""

import os
import time
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from ml.log import days_made_from, partition_window
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse
from pipelines.build import build_definitions
from pipelines.jobs import DAYS, WRITES
from pipelines.late_data import MAX_REQUESTS
from pipelines.run import missing_ranges
from pipelines.sensors import look

FIRST = date(2026, 5, 1)
MORNING = datetime(2026, 5, 20, 9, tzinfo=UTC)
"""The 19th is over and its night's time has come."""


def day(number):
    """The May day."""
    return date(2026, 5, number).isoformat()


class World:
    """A shop's raw log, tables, Dagster instance and the sensor's ticks."""

    def __init__(self, folder, instance, late_days=1):
        self.settings = Settings(
            home=folder / "home", warehouse=folder / "warehouse", raw_log=folder / "raw",
            log={"late_days": late_days}, start_date=FIRST.isoformat(),
        )  # fmt: skip
        self.instance, self.cursor = instance, None

    def deliver(self, *numbers, name="events.parquet", text="events"):
        """Write a raw file of these days."""
        for number in numbers:
            folder = self.settings.raw_log / f"event_date={day(number)}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    def make(self, *numbers, lists=True, meanwhile=lambda: None):
        """Publish these days, by a real run that materialises `interactions`; `meanwhile` happens in it."""
        warehouse = Warehouse(self.settings.warehouse, grace_seconds=0)
        partitions = dg.DailyPartitionsDefinition(FIRST.isoformat())

        @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
        def interactions(context: dg.AssetExecutionContext) -> None:
            meanwhile()
            for made in context.partition_keys:
                warehouse.publish("interactions", TABLES["interactions"].schema.empty_table(), date=made)
                if lists:
                    rows = TABLES["recommendations"].schema.empty_table()
                    warehouse.publish("recommendations", rows, date=made, category="Clothing")

        for first, last in missing_ranges([day(number) for number in numbers], ()):
            tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
            assert dg.materialize([interactions], instance=self.instance, tags=tags).success

    def tick(self, now=MORNING, keep=True):
        """One tick: what is asked for as (job, days), or why nothing is."""
        self.result = look(self.settings, self.instance, self.cursor, now)
        self.cursor = self.result.cursor if keep else self.cursor
        requests = self.result.run_requests or []
        assert len({request.run_key for request in requests}) == len(requests) <= MAX_REQUESTS
        return [(r.job_name, *asked_days(r)) for r in requests] or self.result.skip_reason.skip_message

    def settle(self, now=MORNING):
        """Two ticks: the first sees the change, the second finds it unchanged."""
        first = self.tick(now)
        assert isinstance(first, str), first
        return self.tick(now)


def asked_days(request):
    """The partition of a request, or the first and last day of its range."""
    kept = request.partition_key_range
    return (request.partition_key,) if kept is None else (kept.start, kept.end)


@pytest.fixture
def instance(tmp_path):
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


@pytest.fixture
def world(tmp_path, instance):
    """Raw days 10 … 18 are made, and noted by the sensor."""
    made = World(tmp_path, instance)
    made.deliver(*range(10, 19))
    made.make(*range(10, 19))
    assert "9 raw partitions noted" in made.tick()
    assert made.tick() == "nothing new"
    return made


@pytest.mark.parametrize("late_days", [0, 1, 3])
def test_a_partition_changes_exactly_the_days_that_are_made_from_it(late_days):
    around = [(FIRST + timedelta(days=n)).isoformat() for n in range(30)]
    for partition in around[5:-5]:
        made_from_it = [d for d in around if partition in partition_window([d], late_days)]
        assert days_made_from(partition, late_days) == made_from_it


def test_a_night_whose_partition_comes_late_is_started_after_the_day_before_is_ingested_again(world):
    world.deliver(19)
    assert world.settle() == [("ingest", day(18), day(18)), ("nightly", day(19))]
    assert world.tick() == "nothing new", "asked for once"


def test_before_the_nights_time_the_schedule_is_left_to_start_it(world):
    world.deliver(19)
    assert world.settle(datetime(2026, 5, 20, 1, tzinfo=UTC)) == [("ingest", day(18), day(18))]


def test_a_day_that_is_not_over_is_not_looked_at(world):
    world.deliver(20)
    world.tick()
    assert world.tick() == "nothing new"
    assert ("ingest", day(19), day(19)) not in world.settle(MORNING + timedelta(days=1))


@pytest.mark.parametrize(
    ("late_days", "first"),
    [(0, 14), (1, 13), (3, 11)],
)
def test_a_changed_file_reruns_the_log_of_its_days_and_the_newest_night_alone(tmp_path, instance, late_days, first):
    world = World(tmp_path, instance, late_days)
    world.deliver(*range(10, 19))
    world.make(*range(10, 19))
    world.tick()
    world.deliver(14, name="more.parquet")
    assert world.settle() == [("ingest", day(first), day(15)), ("nightly", day(18))]


def test_a_change_of_the_newest_day_reruns_it_as_a_night(world):
    world.deliver(18, text="other events")
    assert world.settle() == [("ingest", day(17), day(17)), ("nightly", day(18))]


def test_a_gap_that_is_filled_gets_its_night_and_the_newest_is_run_again(tmp_path, instance):
    world = World(tmp_path, instance)
    numbers = [10, 11, 13, 14, 15, 16]
    world.deliver(*numbers)
    world.make(*numbers)
    world.tick()
    world.deliver(12)
    asked = world.settle()
    assert asked == [
        ("ingest", day(11), day(11)), ("ingest", day(13), day(13)), ("nightly", day(12)), ("nightly", day(16)),
    ]  # fmt: skip


def test_a_file_still_being_written_waits_until_it_is_whole(world):
    for length in (1, 2, 3):
        world.deliver(14, name="growing.parquet", text="x" * length)
        assert "still be written" in world.tick()
    path = world.settings.raw_log / f"event_date={day(14)}" / "growing.parquet"
    os.utime(path, ns=(1, 1))  # the same size, written again
    assert "still be written" in world.tick()
    assert world.tick() == [("ingest", day(13), day(15)), ("nightly", day(18))]


def test_a_copy_that_keeps_its_old_times_has_arrived_late_all_the_same(world):
    world.deliver(14, name="copied.parquet")
    path = world.settings.raw_log / f"event_date={day(14)}" / "copied.parquet"
    os.utime(path, (MORNING.timestamp() - 86400 * 400,) * 2)
    assert world.settle() == [("ingest", day(13), day(15)), ("nightly", day(18))]


def test_a_tick_evaluated_again_asks_for_the_same_runs(world):
    world.deliver(14, name="more.parquet")
    world.tick()
    first = world.tick(keep=False)
    keys = [request.run_key for request in world.result.run_requests]
    assert world.tick() == first
    assert [request.run_key for request in world.result.run_requests] == keys
    world.deliver(14, name="third.parquet")
    assert world.settle() == first
    assert not set(keys) & {request.run_key for request in world.result.run_requests}, "another change, other runs"


def test_what_a_run_has_read_since_is_not_run_again(world):
    world.deliver(14, name="more.parquet")
    time.sleep(0.05)
    world.make(13, 14, 15)
    assert "in the tables already" in world.settle()
    world.deliver(16, name="more.parquet")
    time.sleep(0.05)
    world.make(16)
    asked = world.settle()
    assert asked == [("ingest", day(15), day(15)), ("ingest", day(17), day(17)), ("nightly", day(18))]


def test_a_run_that_began_before_a_file_came_has_not_read_it(world):
    world.make(13, 14, 15, meanwhile=lambda: (time.sleep(0.05), world.deliver(14, name="more.parquet")))
    assert world.settle() == [("ingest", day(13), day(15)), ("nightly", day(18))]


def test_nothing_is_asked_for_while_a_run_over_days_goes_on(world):
    @dg.job
    def nightly() -> None: ...

    run = world.instance.create_run_for_job(nightly, status=dg.DagsterRunStatus.STARTED, tags={WRITES: DAYS})
    world.deliver(14, name="more.parquet")
    world.tick()
    assert run.run_id in world.tick()
    world.instance.report_run_failed(run)
    assert world.tick() == [("ingest", day(13), day(15)), ("nightly", day(18))]


def test_many_changes_are_asked_for_a_few_at_a_time_and_the_newest_night_once(tmp_path, instance):
    world = World(tmp_path, instance, late_days=0)
    world.settings = world.settings.model_copy(update={"start_date": "2026-04-01"})
    numbers = range(1, 19)
    world.deliver(*numbers)
    world.make(*[n for n in numbers if n % 3 == 1])  # so that no two ranges touch
    world.tick()
    world.deliver(*[n for n in numbers if n % 3 == 1], name="more.parquet")
    asked, ticks = [], 0
    world.tick()
    while isinstance(found := world.tick(), list):
        asked += found
        ticks += 1
    assert ticks > 1
    nights = [days for job, *days in asked if job == "nightly"]
    assert nights == [[day(16)]] and asked[-1] == ("nightly", day(16))
    assert [days for job, *days in asked if job == "ingest"] == [[day(n)] * 2 for n in (1, 4, 7, 10, 13)]


def test_a_partition_that_goes_away_reruns_nothing(world):
    for path in (world.settings.raw_log / f"event_date={day(12)}").iterdir():
        path.unlink()
    assert world.tick() == "nothing new" and world.tick() == "nothing new"


def test_the_sensor_is_on_and_dagster_takes_its_requests(world):
    definitions = build_definitions(world.settings)
    (sensor,) = definitions.sensors or []
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    world.deliver(14, name="more.parquet")
    world.tick()
    with dg.build_sensor_context(world.instance, world.cursor, definitions=definitions) as context:
        found = sensor.evaluate_tick(context)
    assert [(r.job_name, *asked_days(r)) for r in found.run_requests] == [
        ("ingest", day(13), day(15)), ("nightly", day(18)),
    ]  # fmt: skip
    assert found.run_requests[1].tags["dagster/partition"] == day(18)


def test_two_years_are_looked_at_in_a_moment(tmp_path, instance):
    world = World(tmp_path, instance)
    world.settings = world.settings.model_copy(update={"start_date": "2024-01-01"})
    for number in range(730):
        folder = world.settings.raw_log / f"event_date={date(2024, 1, 1) + timedelta(days=number)}"
        folder.mkdir(parents=True)
        for part in range(4):
            (folder / f"{part}.parquet").touch()
    world.tick()
    started = time.perf_counter()
    assert world.tick() == "nothing new"
    assert time.perf_counter() - started < 3
    assert len(world.cursor) < 40_000
