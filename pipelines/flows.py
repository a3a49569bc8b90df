"""What the commands do: which jobs run, for which partitions, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from assets.common import scope_of
from ml.errors import BadInputError
from ml.experiments import experiments as all_experiments
from ml.experiments import made_from
from ml.log import raw_days
from ml.retention import first_log_day
from ml.settings import Settings
from ml.warehouse import open_warehouse
from pipelines.jobs import SELECTIONS
from pipelines.run import Outcome, Runner, missing_ranges

_TAKES_AS_OF = {
    "training_sequences", "prompts", "adapter", "title_encoder", "title_index", "item_embeddings", "id_index", "ranker",
}  # fmt: skip
_TAKES_CATEGORIES = ("generations", "recommendations")


def ingest(runner: Runner, until: str) -> list[Outcome]:
    """Clean every raw day up to `until` that is kept (`retention.log_days`) and not published yet, range by range.

    A day counts as published when every table of the job has it: a run that was killed may have left it in some.
    """
    settings = runner.settings
    known = finished_days(settings)
    first = first_log_day(settings, known[-1]) if known else settings.start_date
    wanted = [day for day in known if first <= day <= until]
    if not wanted:
        raise BadInputError(
            f"{settings.raw_log}: no event_date=YYYY-MM-DD partition from {first} to {until} "
            "(settings `raw_log`, `start_date`, `retention.log_days`)"
        )
    warehouse = open_warehouse(settings)
    published = sorted(set.intersection(*(set(warehouse.days(table)) for table in SELECTIONS["ingest"])))
    return [runner.run("ingest", days=days) for days in missing_ranges(wanted, published)]


def train(runner: Runner, as_of: str | None = None, categories: Sequence[str] = ()) -> list[Outcome]:
    """Fit and promote the models of `categories` (default: all), then the pooled ones if any of them uses those."""
    settings = runner.settings
    as_of = as_of or newest_raw_day(runner)
    chosen = known_categories(runner.settings, categories)
    outcomes = ingest(runner, as_of)
    outcomes.append(runner.run("prepare"))
    for category in chosen:
        outcomes.append(runner.run("sequences", category, as_of_config("sequences", as_of)))
    warehouse = open_warehouse(settings)
    for scope in dict.fromkeys(scope_of(settings, warehouse, category) for category in chosen):
        outcomes.append(runner.run("fit", scope, as_of_config("fit", as_of)))
    return outcomes


def nightly(runner: Runner, day: str | None = None, categories: Sequence[str] = ()) -> Outcome:
    """Make one day's tables; days before it that were never ingested are ingested first."""
    day = known_day(runner, day or newest_raw_day(runner))
    chosen = known_categories(runner.settings, categories)
    before = [d for d in finished_days(runner.settings) if d < day]
    if before and before[-1] >= first_log_day(runner.settings, newest_raw_day(runner)):
        ingest(runner, before[-1])
    return runner.run("nightly", day, {name: {"categories": list(chosen)} for name in _TAKES_CATEGORIES})


def evaluate(runner: Runner, categories: Sequence[str] = ()) -> list[Outcome]:
    """Score every system on the held-out purchases of `categories`."""
    return [runner.run("evaluate", category) for category in known_categories(runner.settings, categories)]


def experiments(runner: Runner, names: Sequence[str] = ()) -> list[Outcome]:
    """Run the experiments `names` (default: all) whose rows are missing or were made from something else.

    What a chosen one is compared with is run too, before it. Raises BadInputError for an unknown name.
    """
    settings, warehouse = runner.settings, open_warehouse(runner.settings)
    known = {experiment.name: experiment for experiment in all_experiments(settings)}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise BadInputError(f"experiment {unknown[0]!r}: expected some of {list(known)}")
    needed = {*names, *(known[name].against for name in names)}
    chosen = [name for name in known if not names or name in needed]
    missing = []
    for name in chosen:
        made = warehouse.read("experiment_metrics", ["made_from"], experiment=name)["made_from"].unique().to_pylist()
        if made != [made_from(settings, warehouse, known[name])]:
            missing.append(name)
    return [runner.run("experiment", name) for name in missing]


def report(settings: Settings) -> Path:
    """Write the report of what has been evaluated; return its page."""
    from ml.report import write_report

    warehouse = open_warehouse(settings)
    with warehouse.step("report"):
        return write_report(settings, warehouse, settings.report)


def newest_raw_day(runner: Runner) -> str:
    """Return the newest finished day of the raw log; raises BadInputError when it has none."""
    days = finished_days(runner.settings)
    if not days:
        raise BadInputError(
            f"{runner.settings.raw_log}: no event_date=YYYY-MM-DD partition of a finished day (setting `raw_log`)"
        )
    return days[-1]


def finished_days(settings: Settings) -> list[str]:
    """Return the days of the raw log that are over in the shop's time zone: a day that goes on is no partition yet."""
    today = datetime.now(settings.log.zone).date().isoformat()
    return [day for day in raw_days(settings.raw_log) if day < today]


def known_day(runner: Runner, day: str) -> str:
    """Return `day`; raises BadInputError where it has no raw partition or lies before the log's first day."""
    settings = runner.settings
    days = [d for d in finished_days(settings) if d >= settings.start_date]
    if day not in days and day in raw_days(settings.raw_log) and day >= settings.start_date:
        raise BadInputError(f"--date {day}: this day is not over in {settings.log.time_zone} (setting `log.time_zone`)")
    if day not in days:
        known = f"{days[0]} … {days[-1]}" if days else "none"
        raise BadInputError(
            f"--date {day}: {settings.raw_log} has no partition event_date={day} on or after {settings.start_date} "
            f"(settings `raw_log`, `start_date`); there are: {known}"
        )
    return day


def known_categories(settings: Settings, categories: Sequence[str]) -> list[str]:
    """Return `categories`, or all; raises BadInputError for one that is not in the settings."""
    for category in categories:
        if category not in settings.categories:
            raise BadInputError(f"--category {category!r}: expected one of {settings.categories}")
    return list(categories) or list(settings.categories)


def as_of_config(job: str, as_of: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the run configuration that sets `as_of` for every asset of the job that takes it."""
    return {asset: {"as_of": as_of} for asset in SELECTIONS[job] if asset in _TAKES_AS_OF}
