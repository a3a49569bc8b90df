"""`kill -9` of a run under the real daemon: it is marked failed, and started again from the step it died in."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest
from log_shop import make_log_shop
from small_shop import LAST

from pipelines.run import Runner

ROOT = Path(__file__).parents[2]
PATIENCE = 150
MARKED_WITHIN = 60
"""Seconds from the kill, as docs/operations.md says."""


@pytest.fixture
def shop(tmp_path):
    """A shop that was never ingested."""
    return make_log_shop(tmp_path / "shop")


@pytest.fixture
def instance(shop):
    with Runner(shop.settings).instance() as opened:
        yield opened


@pytest.fixture
def daemon(shop, instance, tmp_path):
    """`hemline ui --only daemon` over the shop, and how to ask it for a run as the UI does."""
    environment = {
        **os.environ, "DAGSTER_HOME": str(shop.settings.home / "dagster"), "HEMLINE_SETTINGS": str(shop.file),
        "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",
    }  # fmt: skip
    log = tmp_path / "daemon.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "pipelines.cli", "ui", "--only", "daemon", "--settings", str(shop.file)]
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    def launch(job, day):
        program = [str(Path(sys.executable).with_name("dagster")), "job", "launch", "-w", "workspace.yaml", "-j", job]
        tags = ["--tags", json.dumps({"dagster/partition": day})]
        subprocess.run([*program, *tags], cwd=ROOT, env=environment, check=True, capture_output=True)

    try:
        yield launch
        assert server.poll() is None, log.read_text()[-3000:]
    finally:
        family = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
        for process in psutil.wait_procs(family, timeout=30)[1]:
            process.kill()


def wait_for(find, what):
    """What `find` returns once it is something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = find()
        if found:
            return found
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {PATIENCE} s")


def steps_begun(instance, run_id):
    """The steps that a run began."""
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)
    return [entry.dagster_event.step_key for entry in events]


def process_of(instance, run_id):
    """The process that a run is carried out in, as Dagster's record says."""
    events = (entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event)
    (pid,) = {int(event.engine_event_data.metadata["pid"].value) for event in events
              if event.event_type_value == "ENGINE_EVENT" and "pid" in event.engine_event_data.metadata}  # fmt: skip
    return psutil.Process(pid)


@pytest.mark.timeout(400)
def test_a_killed_run_is_marked_and_only_the_step_it_died_in_is_run_again(shop, instance, daemon):
    with shop.warehouse.step("query_daily"):  # the run waits in this step until it is killed
        daemon("ingest", LAST)
        (run,) = wait_for(instance.get_runs, "the run is queued")
        wait_for(lambda: "query_daily" in steps_begun(instance, run.run_id), "it comes to its second step")
        process_of(instance, run.run_id).kill()
        killed = time.monotonic()
        wait_for(lambda: instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE, "it is marked")
        assert time.monotonic() - killed < MARKED_WITHIN
        assert shop.warehouse.days("interactions") == [LAST] and shop.warehouse.days("query_daily") == []
        before = shop.published()
    again = wait_for(
        lambda: next((one for one in instance.get_runs() if one.parent_run_id == run.run_id), None),
        "it is started again",
    )
    ended = wait_for(lambda: (one := instance.get_run_by_id(again.run_id)).is_finished and one, "that run ends")
    assert ended.is_success and steps_begun(instance, again.run_id) == ["query_daily"]
    assert ended.tags["dagster/partition"] == LAST
    after = shop.published()
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 1
    assert len(instance.get_runs()) == 2, "once is enough"
