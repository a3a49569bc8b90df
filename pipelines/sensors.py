"""What starts runs when files arrive: `late_data` follows the raw log, a look at every file's name, size and time.

What a change means is in `pipelines.late_data`; here is only how it is noticed, once and when the files are whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml.days import end_of_day
from ml.errors import BadInputError
from ml.log import raw_days, raw_states
from ml.settings import Settings
from ml.warehouse import open_warehouse
from pipelines.jobs import DAYS, WRITES
from pipelines.late_data import Plan, Published, plan, waiting
from pipelines.schedules import NIGHT_TIME

if TYPE_CHECKING:
    from dagster import DagsterInstance

SECONDS_BETWEEN_TICKS = 60
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING,
]  # fmt: skip


@dataclass
class Cursor:
    """What the sensor remembers: fingerprints by day that were acted on, and those seen once.

    `remake` is the key of the changes after which the newest night is still to be run again.
    """

    seen: dict[str, str] = field(default_factory=dict)
    settling: dict[str, str] = field(default_factory=dict)
    remake: str = ""


def sensors(settings: Settings, jobs: Sequence[Any]) -> list[dg.SensorDefinition]:
    """Return the sensors; `jobs` are the definitions' own."""

    @dg.sensor(
        name="late_data",
        jobs=[job for job in jobs if job.name in ("ingest", "nightly")],
        minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts a night whose raw partition came late; reruns the days that a changed raw file changes.",
    )
    def late_data(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return look(settings, context.instance, context.cursor, datetime.now(settings.log.zone))

    return [late_data]


def look(settings: Settings, instance: DagsterInstance, cursor: str | None, now: datetime) -> dg.SensorResult:
    """Return what one tick at `now` asks for.

    The first tick only notes what is there. A partition counts as changed when its files are the same in two ticks
    running, so that one still being written waits. Days that are not over are not looked at, and while a run over days
    goes on nothing is asked for. A tick evaluated twice asks for the same run keys.
    """
    try:
        days = [day for day in raw_days(settings.raw_log) if day < now.astimezone(settings.log.zone).date().isoformat()]
    except BadInputError as error:
        return _skip(str(error), cursor)
    states = raw_states(settings.raw_log, days)
    if cursor is None:
        noted = Cursor(seen={day: state.fingerprint for day, state in states.items()})
        return _skip(f"{len(states)} raw partitions noted; what changes from now on is followed", _text(noted))
    known = Cursor(**json.loads(cursor))
    changed = waiting(states, known.seen)
    settled = {day: states[day] for day in changed if known.settling.get(day) == states[day].fingerprint}
    after = Cursor(dict(known.seen), {day: states[day].fingerprint for day in changed}, known.remake)
    if not settled and not known.remake:
        return _skip(f"{len(changed)} raw partitions may still be written" if changed else "nothing new", _text(after))
    running = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED, tags={WRITES: DAYS}), limit=1)
    if running:
        return _skip(f"{len(settled)} changed raw partitions wait for run {running[0].run_id} to end", _text(after))
    made = plan(settled, published(settings, instance, now), settings.log.late_days, bool(known.remake))
    for day in made.done:
        after.seen[day] = after.settling.pop(day)
    files = "".join(f"{day}{states[day].fingerprint}" for day in made.done)
    key = hashlib.sha256((known.remake + files).encode()).hexdigest()[:12]
    after.remake = key if made.remake else ""
    requests = run_requests(made, key)
    if not requests:
        return _skip(f"{len(made.done)} changed raw partitions are in the tables already", _text(after))
    return dg.SensorResult(run_requests=requests, cursor=_text(after))


def run_requests(made: Plan, key: str) -> list[dg.RunRequest]:
    """Return the runs of a plan; with `key`, which names the raw files they answer, each is started once."""
    ingests = [
        dg.RunRequest(
            run_key=f"ingest {first} {last} {key}",
            job_name="ingest",
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        )
        for first, last in made.ranges
    ]
    nights = [
        dg.RunRequest(run_key=f"nightly {day} {key}", job_name="nightly", partition_key=day) for day in made.nights
    ]
    return [*ingests, *nights]


def published(settings: Settings, instance: DagsterInstance, now: datetime) -> Published:
    """Return what the warehouse and Dagster's event log know of the days."""
    warehouse = open_warehouse(settings)

    def made_since(day: str, moment: float) -> bool:
        newest = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey("interactions"), asset_partitions=[day], after_timestamp=moment), limit=1
        )
        record = instance.get_run_record_by_id(newest.records[0].run_id) if newest.records else None
        return record is not None and (record.start_time or 0) > moment

    def night_is_due(day: str) -> bool:
        zone = settings.log.zone
        return day >= settings.start_date and now.astimezone(zone) >= end_of_day(day, zone) + NIGHT_TIME

    return Published(
        frozenset(day for day in warehouse.days("interactions") if day >= settings.start_date),
        frozenset(warehouse.days("recommendations")),
        made_since,
        night_is_due,
    )


def _skip(reason: str, cursor: str | None) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor)


def _text(cursor: Cursor) -> str:
    return json.dumps(asdict(cursor), separators=(",", ":"))
