"""`hemline clean`: what it removes, what it says, and that it keeps out of the way of runs."""

import os
import time
from datetime import date, timedelta

import dagster as dg
import pytest
import yaml
from small_shop import Shop, event, write_events
from typer.testing import CliRunner

from ml.tables import TABLES
from pipelines import flows
from pipelines.build import build_definitions
from pipelines.clean import BusyError, clean
from pipelines.cli import app
from pipelines.run import Runner

DAYS = [(date(2026, 3, 1) + timedelta(days=n)).isoformat() for n in (0, 1, 8, 9, 39)]
GONE = DAYS[:3]


@pytest.fixture
def shop(tmp_path):
    """Published days of a log of which the newest 31 are kept, and a work file of last year."""
    shop = Shop(tmp_path)
    shop.file.write_text(
        yaml.safe_dump(
            {
                "raw_log": "raw/interactions", "warehouse": "warehouse", "home": "home", "start_date": DAYS[0],
                "retention": {"log_days": 31},
            }
        )
    )  # fmt: skip
    for day in DAYS:
        write_events(shop, day, [event(day, day)])
        for table in ("interactions", "rejected_interactions", "query_daily"):
            shop.warehouse.publish(table, TABLES[table].schema.empty_table(), date=day)
    work = shop.settings.work_folder / "generations" / "Clothing" / "generated-1.parquet"
    work.parent.mkdir(parents=True)
    work.write_text("x")
    os.utime(work, (time.time() - 365 * 86_400,) * 2)
    return shop


def test_a_dry_run_says_what_the_next_run_removes_and_removed_days_do_not_come_back(shop):
    before = shop.published()
    dry = CliRunner().invoke(app, ["clean", "--dry-run", "--settings", str(shop.file)])
    assert dry.exit_code == 0 and "Would remove 9 × partition, 1 × work" in dry.stdout, dry.output
    assert f"query_daily/date={GONE[0]}" in dry.stdout and "retention.log_days: 31" in dry.stdout
    assert shop.published() == before
    done = CliRunner().invoke(app, ["clean", "--settings", str(shop.file)])
    assert "Removed 9 × partition, 1 × work" in done.stdout, done.output
    assert shop.published() == {name: time for name, time in before.items() if name.split("date=")[1][:10] not in GONE}
    assert flows.ingest(Runner(shop.settings), DAYS[-1]) == [], "no removed day is ingested again"
    again = CliRunner().invoke(app, ["clean", "--settings", str(shop.file)])
    assert "Nothing to remove" in again.stdout


@pytest.mark.parametrize("step", ["recommendations", "adapter Clothing"])
def test_nothing_is_removed_while_a_run_is_in_a_step(shop, step):
    before = shop.published()
    with shop.warehouse.step(step), pytest.raises(BusyError, match=rf"'{step}': nothing was removed"):
        clean(shop.settings)
    assert shop.published() == before
    assert clean(shop.settings), "the locks are given back"


def test_the_weekly_job_removes_and_is_tried_again_for_hours(shop):
    job = build_definitions(shop.settings).resolve_job_def("clean")
    (op,) = [node.definition for node in job.graph.nodes]
    assert op.retry_policy.max_retries * op.retry_policy.delay >= 4 * 3600, "a night may be going on"
    assert job.execute_in_process(instance=dg.DagsterInstance.ephemeral()).success
    assert shop.warehouse.days("interactions") == DAYS[3:]
