"""dagster.yaml as Dagster reads it: a run that hangs is ended, one that died is restarted, days go one at a time."""

import shutil
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import JobFailureData, RunFailureReason

from ml.settings import Settings
from pipelines.build import build_definitions
from pipelines.jobs import DAYS, WRITES

FILE = Path(__file__).parents[2] / "dagster.yaml"


@pytest.fixture
def instance(tmp_path):
    """An instance made from the file."""
    shutil.copy(FILE, tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


@dg.job(tags={WRITES: DAYS})
def nightly() -> None:
    """Stands for the job of that name."""


@pytest.mark.parametrize(
    ("reason", "again"), [(RunFailureReason.RUN_EXCEPTION, "true"), (RunFailureReason.STEP_FAILURE, "false")]
)
def test_a_run_that_died_is_restarted_and_one_that_failed_in_a_step_is_not(instance, reason, again):
    run = instance.create_run_for_job(nightly, status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run, "gone", JobFailureData(error=None, failure_reason=reason))
    assert instance.get_run_by_id(run.run_id).tags["dagster/will_retry"] == again


def test_runs_over_days_go_one_at_a_time(instance):
    limits = instance.get_concurrency_config().run_queue_config
    assert limits.max_concurrent_runs > 1
    (limit,) = limits.tag_concurrency_limits
    assert (limit["key"], limit["limit"]) == (WRITES, 1)


def test_monitoring_is_on_and_every_long_job_has_its_end(instance, tmp_path):
    assert instance.run_monitoring_enabled and instance.run_monitoring_start_timeout_seconds == 600
    definitions = build_definitions(Settings(home=tmp_path, warehouse=tmp_path))
    for name in ("ingest", "nightly", "train", "fit", "evaluate", "experiment"):
        assert int(definitions.resolve_job_def(name).run_tags["dagster/max_runtime"]) >= 12 * 3600
    for name in ("ingest", "nightly"):
        assert definitions.resolve_job_def(name).run_tags[WRITES] == DAYS
