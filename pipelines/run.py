"""Runs jobs on the persistent Dagster instance, so that what the command line does shows in the UI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ml.errors import BadInputError, HemlineError
from ml.files import write_file
from ml.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

OURS = "ml."
"""How the class of an error that Hemline wrote for people begins."""
INSTANCE_FILE = Path(__file__).parents[1] / "dagster.yaml"
POSTGRES_VARIABLE = "DAGSTER_POSTGRES_URL"
_POSTGRES_SCHEME = "postgresql+psycopg2://"
_POSTGRES_STORAGE = f"""
# Runs, events and schedules in PostgreSQL (setting dagster_storage); its address, a secret, stays in the environment.
storage:
  postgres:
    postgres_url:
      env: {POSTGRES_VARIABLE}
"""


class RunFailedError(HemlineError):
    """A run of a job failed; the message says where and why."""


@dataclass(frozen=True)
class Outcome:
    """A successful run: its id and how many seconds each asset took."""

    run_id: str
    seconds: Mapping[str, float]


def dagster_home(settings: Settings) -> Path:
    """Return the instance's folder under `home`, made ready, so that nobody needs to set DAGSTER_HOME.

    Raises BadInputError where PostgreSQL is asked for and cannot be used as things are.
    """
    folder = settings.home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dagster.yaml").exists() and INSTANCE_FILE.exists():
        write_file(folder / "dagster.yaml", lambda path: shutil.copy(INSTANCE_FILE, path))  # others may start beside us
    if settings.dagster_storage == "postgres":
        _use_postgres(folder / "dagster.yaml")
    os.environ.setdefault("DAGSTER_HOME", str(folder))
    return folder


def _use_postgres(file: Path) -> None:
    """Add the storage to an instance file that names none; what a person wrote there stays."""
    if not os.environ.get(POSTGRES_VARIABLE, "").startswith(_POSTGRES_SCHEME):
        raise BadInputError(
            f"dagster_storage is postgres: expected the database's address in the environment variable "
            f"{POSTGRES_VARIABLE}, as {_POSTGRES_SCHEME}USER@HOST/DATABASE (the password in PGPASSWORD, or in it)"
        )
    if find_spec("dagster_postgres") is None:
        raise BadInputError("dagster_storage is postgres: install `pip install -r requirements-postgres.txt`")
    text = file.read_text(encoding="utf-8")
    if "storage" not in (yaml.safe_load(text) or {}):
        write_file(file, lambda path: path.write_text(text + _POSTGRES_STORAGE, encoding="utf-8"))


class Runner:
    """Runs jobs of one set of settings in this process."""

    def __init__(self, settings: Settings) -> None:
        from pipelines.build import build_definitions

        self.settings = settings
        self.definitions = build_definitions(settings)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Open the persistent instance."""
        import dagster as dg

        folder = dagster_home(self.settings)
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            yield instance

    def run(
        self,
        job: str,
        partition: str | None = None,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        days: tuple[str, str] | None = None,
    ) -> Outcome:
        """Run a job for one partition or a range of days; `config` is run configuration by asset.

        Raises RunFailedError with the first failed asset and its error.
        """
        tags = {"hemline/from": "command line"}
        if days:
            tags |= {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[1]}
        run_config = {
            "ops": {asset: {"config": dict(values)} for asset, values in (config or {}).items()},
            "loggers": {"console": {}},
        }
        with self.instance() as instance:
            result = self.definitions.resolve_job_def(job).execute_in_process(
                run_config=run_config, instance=instance, partition_key=partition, tags=tags, raise_on_error=False
            )
            if not result.success:
                raise RunFailedError(failure_words(result, job))
            seconds = {
                event.step_key: (event.step_success_data.duration_ms or 0) / 1000
                for event in result.all_events
                if event.event_type_value == "STEP_SUCCESS" and event.step_key
            }
        return Outcome(result.run_id, seconds)


def failure_words(result: dg.ExecuteInProcessResult, job: str) -> str:
    """Return what failed in a run, for a person."""
    for event in result.all_events:
        if event.event_type_value == "STEP_FAILURE":
            error = event.step_failure_data.error
            while error is not None and error.cause is not None and not error.message.startswith(OURS):
                error = error.cause  # Dagster's wrapping, down to our own sentence and no further
            text = _for_people(error.message) if error else "unknown error"
            return f"{job}: {event.step_key}: {text}\n(run {result.run_id}; `hemline ui` shows its log)"
    for event in result.all_events:
        if event.event_type_value in ("RUN_FAILURE", "PIPELINE_FAILURE"):
            return f"{job}: {event.message} (run {result.run_id})"
    return f"{job} failed (run {result.run_id})"


def _for_people(message: str) -> str:
    """Return an error without its class where Hemline wrote it; others need their class to make sense."""
    if message.strip().endswith("DagsterExecutionInterruptedError"):
        return "interrupted; what was published before stays. Run it again to go on"
    kind, _, words = message.partition(": ")
    return (words if kind.startswith(OURS) and words else message).strip()


def missing_ranges(wanted: Sequence[str], present: Sequence[str]) -> list[tuple[str, str]]:
    """Return the unbroken ranges of `wanted` days that are not `present`, oldest first."""
    missing = sorted(set(wanted) - set(present))
    if not missing:
        return []
    breaks = [i for i, (a, b) in enumerate(pairwise(missing), start=1) if _next(a) != b]
    edges = [0, *breaks, len(missing)]
    return [(missing[a], missing[b - 1]) for a, b in pairwise(edges)]


def _next(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()
