"""When jobs run by themselves: `nightly` after midnight in the shop's time zone, `train` once a week."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from ml.settings import POOLED, Settings


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules; both are off until someone turns them on."""
    zone = settings.log.time_zone

    @dg.schedule(job_name="nightly", cron_schedule="30 1 * * *", execution_timezone=zone, name="every_night")
    def every_night(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        """Yesterday, through `recommendations` and `realised`."""
        day = (context.scheduled_execution_time.astimezone(settings.log.zone) - timedelta(days=1)).date().isoformat()
        return dg.RunRequest(run_key=day, partition_key=day)

    @dg.schedule(job_name="train", cron_schedule="0 4 * * 1", execution_timezone=zone, name="every_week")
    def every_week(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        """Every category's models, then the pooled ones."""
        for scope in [*settings.categories, POOLED]:
            yield dg.RunRequest(run_key=f"{context.scheduled_execution_time.date()} {scope}", partition_key=scope)

    return [every_night, every_week]
