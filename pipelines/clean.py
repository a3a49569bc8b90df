"""`hemline clean` and its weekly job: removes what the settings `retention` do not keep, while no run is at work."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import dagster as dg
from rich.console import Console
from rich.table import Table

from assets import all_assets
from assets.define import step_names
from ml.errors import HemlineError
from ml.retention import Removal, forgotten_work, old_partitions, unneeded_versions
from ml.retention.tables import kept_nights
from ml.retention.versions import references
from ml.settings import Settings
from ml.warehouse import open_warehouse
from pipelines.partitions import with_partitions
from pipelines.resources import model_registry

_TRIES, _SECONDS_BETWEEN = 12, 1800


class BusyError(HemlineError):
    """A run is at work on what would be cleaned."""


def what_may_go(settings: Settings, now: float) -> list[Removal]:
    """Return what the settings `retention` do not keep at `now` (seconds since 1970)."""
    warehouse = open_warehouse(settings)
    lists = references(warehouse, kept_nights(settings, warehouse))
    return [
        *old_partitions(settings, warehouse, lists.listed_on),
        *unneeded_versions(model_registry(settings), settings.retention, lists.versions, now),
        *forgotten_work(settings, now),
    ]


def clean(settings: Settings, dry_run: bool = False, now: float | None = None) -> list[Removal]:
    """Remove what may go, and return it; a dry run only returns it.

    Every step is held meanwhile: a run that comes waits. Raises BusyError where one is in a step already.
    """
    now = time.time() if now is None else now
    if dry_run:
        return what_may_go(settings, now)
    with _no_step_runs(settings):
        removals = what_may_go(settings, now)
        for one in removals:
            one.remove()
    return removals


@contextmanager
def _no_step_runs(settings: Settings) -> Iterator[None]:
    warehouse = open_warehouse(settings)

    def held(step: str) -> None:
        raise BusyError(f"a run is in the step {step!r}: nothing was removed. Run `hemline clean` when it is through.")

    with ExitStack() as steps:
        for name in step_names(with_partitions(all_assets(), settings)):
            steps.enter_context(warehouse.step(name, lambda name=name: held(name)))
        yield


def print_removals(console: Console, removals: Sequence[Removal], dry_run: bool) -> None:
    """Print what was removed, or would be, a line each, and how much it is."""
    if not removals:
        console.print("Nothing to remove: all is kept by the settings `retention`, or in use.", markup=False)
        return
    table = Table("what", "", "MB", "why", box=None, pad_edge=False)
    for one in removals:
        size = "on the server" if one.bytes is None else f"{one.bytes / 1e6:.1f}"
        table.add_row(one.kind, Console.render_str(console, one.what, markup=False), size, one.why)
    console.print(table)
    console.print(("Would remove " if dry_run else "Removed ") + summary(removals), markup=False)


def summary(removals: Sequence[Removal]) -> str:
    """Return in words how many things of each kind, and how many bytes."""
    counts = Counter(one.kind for one in removals)
    parts = ", ".join(f"{count} × {kind}" for kind, count in counts.items()) or "nothing"
    return f"{parts}, {sum(one.bytes or 0 for one in removals) / 1e6:.1f} MB"


def clean_job() -> dg.JobDefinition:
    """Return the job of the weekly schedule; while a run is at work it is tried again every half hour."""

    @dg.op(
        retry_policy=dg.RetryPolicy(max_retries=_TRIES, delay=_SECONDS_BETWEEN),
        description="Remove what the settings `retention` do not keep.",
    )
    def remove_what_is_not_kept(context: dg.OpExecutionContext, settings: dg.ResourceParam[Settings]) -> None:
        context.log.info(f"removed {summary(clean(settings))}")

    @dg.job(name="clean", description="Old partitions, files of models no longer needed, forgotten work.")
    def job() -> None:
        remove_what_is_not_kept()

    return job
