"""The schedules as Dagster's daemon evaluates them: when they tick, what they ask for, and what they say when not."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile

import dagster as dg
import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from ml.settings import Settings
from ml.warehouse import Warehouse
from pipelines.build import build_definitions

ZONES = [
    "Europe/Berlin",  # the clocks change at 2
    "Europe/London",  # 01:30 is left out in spring
    "America/New_York",  # 01:30 comes twice in autumn
    "America/Havana",  # midnight is left out in spring and comes twice in autumn
    "Australia/Lord_Howe",  # half an hour
    "Asia/Kolkata",
]


def shop(folder, zone="UTC", days=(), **values):
    """Settings of a shop whose raw log has these days, empty."""
    settings = Settings(
        home=folder / "home", warehouse=folder / "warehouse", raw_log=folder / "raw", log={"time_zone": zone}, **values
    )
    for day in days:
        (settings.raw_log / f"event_date={day}").mkdir(parents=True)
    return settings


def ticks(settings, name, first, last):
    """Every time the daemon would evaluate the schedule between two instants, and what that gives."""
    definitions = build_definitions(settings)
    schedule = definitions.resolve_schedule_def(name)
    times = schedule_execution_time_iterator(
        first.timestamp(), schedule.cron_schedule, schedule.execution_timezone, ascending=True
    )
    with dg.DagsterInstance.ephemeral() as instance:
        for time in takewhile(lambda time: time < last, times):
            context = dg.build_schedule_context(
                instance, scheduled_execution_time=time, repository_def=definitions.get_repository_def()
            )
            yield time, schedule.evaluate_tick(context)


def year(of):
    """Its days."""
    return [(date(of, 1, 1) + timedelta(days=n)).isoformat() for n in range(365)]


def hours(day, zone):
    """How long a day is there."""
    start = datetime.combine(day, datetime.min.time(), zone)
    end = datetime.combine(day + timedelta(days=1), datetime.min.time(), zone)
    return (end.astimezone(UTC) - start.astimezone(UTC)) / timedelta(hours=1)


@pytest.mark.parametrize("zone", ZONES)
def test_each_day_of_a_year_is_asked_for_once_soon_after_it_ended(tmp_path, zone):
    settings = shop(tmp_path, zone, year(2026), start_date="2026-01-01")
    local = settings.log.zone
    asked = Counter()
    job = build_definitions(settings).resolve_job_def("nightly")
    for time, result in ticks(
        settings, "every_night", datetime(2026, 1, 2, tzinfo=local), datetime(2027, 1, 2, tzinfo=local)
    ):
        (request,) = result.run_requests
        asked[request.partition_key] += 1
        assert request.run_key == request.partition_key
        assert time.astimezone(local).date() == date.fromisoformat(request.partition_key) + timedelta(days=1)
        midnight = datetime.combine(time.astimezone(local).date(), datetime.min.time(), local)
        since = time.astimezone(UTC) - midnight.astimezone(UTC)
        assert timedelta(minutes=30) <= since <= timedelta(hours=2, minutes=30)
        if {hours(date.fromisoformat(request.partition_key) + timedelta(days=n), local) for n in (-1, 0, 1)} != {24}:
            made = job.partitions_def.get_partition_keys(current_time=time)
            assert made[-1] == request.partition_key, "Dagster counts the day as over"
    assert asked == Counter(year(2026))
    odd = {hours(date.fromisoformat(day), local) for day in year(2026)} - {24}
    assert len(odd) == (0 if zone == "Asia/Kolkata" else 2), "the year has a short and a long day"


def test_the_schedules_run_without_being_turned_on(tmp_path):
    definitions = build_definitions(shop(tmp_path))
    assert {s.name: s.default_status for s in definitions.schedules or []} == {
        "every_night": dg.DefaultScheduleStatus.RUNNING,
        "every_morning": dg.DefaultScheduleStatus.RUNNING,
        "every_week": dg.DefaultScheduleStatus.RUNNING,
        "every_sunday": dg.DefaultScheduleStatus.RUNNING,
    }


def test_the_morning_s_question_can_be_turned_off(tmp_path):
    settings = shop(tmp_path)
    quiet = settings.model_copy(update={"health": settings.health.model_copy(update={"every_morning": False})})
    statuses = {s.name: s.default_status for s in build_definitions(quiet).schedules or []}
    assert statuses["every_morning"] == dg.DefaultScheduleStatus.STOPPED
    assert statuses["every_night"] == dg.DefaultScheduleStatus.RUNNING


def only_tick(settings, name, at):
    """What the schedule says at its next tick from `at`."""
    return next(iter(ticks(settings, name, at, at + timedelta(days=8))))[1]


NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (["2026-05-18", "2026-05-19"], ["event_date=2026-05-20", "not there yet", "2026-05-19", "late_data"]),
        ([], ["no such folder"]),
    ],
)
def test_a_night_without_its_raw_partition_is_skipped_and_says_why(tmp_path, days, words):
    result = only_tick(shop(tmp_path, days=days), "every_night", NOON)
    assert result.run_requests == []
    for word in words:
        assert word in result.skip_message


def test_a_night_before_the_logs_first_day_is_skipped(tmp_path):
    result = only_tick(shop(tmp_path, days=["2026-05-20"], start_date="2026-05-21"), "every_night", NOON)
    assert result.run_requests == [] and "start_date" in result.skip_message


def publish_day(settings, day):
    """An empty day of events."""
    from ml.tables import TABLES

    Warehouse(settings.warehouse).publish("interactions", TABLES["interactions"].schema.empty_table(), date=day)


def test_every_week_fits_each_category_once_and_the_pooled_models_last(tmp_path):
    settings = shop(tmp_path, categories=["Hats", "Coats"])
    publish_day(settings, "2026-05-19")
    result = only_tick(settings, "every_week", NOON)
    assert [r.partition_key for r in result.run_requests] == ["Hats", "Coats", "all"]
    assert len({r.run_key for r in result.run_requests}) == 3


def test_a_week_without_a_new_day_fits_nothing_and_says_so(tmp_path):
    settings = shop(tmp_path)
    assert "hemline train" in only_tick(settings, "every_week", NOON).skip_message
    publish_day(settings, "2026-05-10")
    result = only_tick(settings, "every_week", NOON)  # ticks on Monday the 25th
    assert result.run_requests == [] and "2026-05-10" in result.skip_message
