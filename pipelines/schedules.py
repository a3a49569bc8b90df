"""When jobs run by themselves: `nightly` after midnight in the shop's time zone, `health` before work, `train` weekly.

All are on as soon as a daemon runs (`health.every_morning` may turn it off), and skip with a reason where there is
nothing to do, so that a log that has ended (a demo's, a shop's of long ago) makes no failed run every night. A night
skipped because its raw partition was late is started by `pipelines.sensors` once the partition is there.
"""

from collections.abc import Iterator
from datetime import date, timedelta

import dagster as dg

from ml.days import last_ended_day
from ml.errors import BadInputError
from ml.log import raw_days
from ml.settings import POOLED, Settings
from ml.warehouse import Warehouse, open_warehouse

NIGHT_CRON, MORNING_CRON, WEEK_CRON, CLEAN_CRON = "30 1 * * *", "30 7 * * *", "0 4 * * 1", "0 12 * * 0"
NIGHT_TIME = timedelta(hours=1, minutes=30)
"""From midnight to the night's tick, by the shop's wall clock."""
_ON = dg.DefaultScheduleStatus.RUNNING


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules, in the shop's time zone."""
    zone, warehouse = settings.log.time_zone, open_warehouse(settings)

    @dg.schedule(
        name="every_night",
        job_name="nightly",
        cron_schedule=NIGHT_CRON,
        execution_timezone=zone,
        default_status=_ON,
        description="Yesterday, through `recommendations` and `realised`.",
    )
    def every_night(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = last_ended_day(context.scheduled_execution_time, settings.log.zone)
        return why_no_night(settings, day) or dg.RunRequest(run_key=day, partition_key=day)

    @dg.schedule(
        name="every_week",
        job_name="train",
        cron_schedule=WEEK_CRON,
        execution_timezone=zone,
        default_status=_ON,
        description="Every category's models, then the pooled ones; skipped without a newer day.",
    )
    def every_week(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        monday = context.scheduled_execution_time.astimezone(settings.log.zone).date()
        nothing = why_no_training(warehouse, monday)
        if nothing:
            yield nothing
            return
        for scope in [*settings.categories, POOLED]:
            yield dg.RunRequest(run_key=f"{monday} {scope}", partition_key=scope)

    every_morning = dg.ScheduleDefinition(
        name="every_morning",
        job_name="health",
        cron_schedule=MORNING_CRON,
        execution_timezone=zone,
        default_status=_ON if settings.health.every_morning else dg.DefaultScheduleStatus.STOPPED,
        description="Whether last night's table is there: red where it is not, whatever the reason.",
    )
    every_sunday = dg.ScheduleDefinition(
        name="every_sunday",
        job_name="clean",
        cron_schedule=CLEAN_CRON,
        execution_timezone=zone,
        default_status=_ON,
        description="Removes what the settings `retention` do not keep; with their defaults no day of any table.",
    )
    return [every_night, every_morning, every_week, every_sunday]


def why_no_night(settings: Settings, day: str) -> dg.SkipReason | None:
    """Return why `nightly` cannot make `day` now; None where it can."""
    if day < settings.start_date:
        return dg.SkipReason(f"{day} is before the log's first day {settings.start_date} (setting `start_date`)")
    try:
        known = raw_days(settings.raw_log)
    except BadInputError as error:
        return dg.SkipReason(str(error))
    if day in known:
        return None
    return dg.SkipReason(
        f"the raw partition {settings.raw_log / f'event_date={day}'} is not there yet, the newest is {known[-1]}; "
        "the sensor late_data starts this night when it arrives"
    )


def why_no_training(warehouse: Warehouse, monday: date) -> dg.SkipReason | None:
    """Return why models fitted now would be last week's again; None where the past week has a published day."""
    days = warehouse.days("interactions")
    if not days:
        return dg.SkipReason("no day of events is published yet: `hemline train` makes the first models")
    if days[-1] < (monday - timedelta(days=7)).isoformat():
        return dg.SkipReason(f"no day was published since the last week's models: the newest is {days[-1]}")
    return None
