"""What every asset shares, seen through real runs: what is tried again, and that a step runs once at a time."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest

from assets import all_assets, define
from ml.errors import BadInputError
from ml.warehouse import Warehouse

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quick(monkeypatch):
    """Pauses of 10, 20, 40 and 80 ms."""
    monkeypatch.setattr(define, "FIRST_WAIT_SECONDS", 0.01)


def run(compute, many=False):
    """Run a function as an asset; its result and the events of the run's retries."""
    with dg.DagsterInstance.ephemeral() as instance:
        decorate = define.multi_asset(specs=[dg.AssetSpec("made")]) if many else define.asset(name="made")
        result = dg.materialize([decorate(compute)], instance=instance, raise_on_error=False)
    return result, [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]


def failing(times, error):
    """A call that raises `times` times."""
    tries = []

    def call():
        tries.append(time.monotonic())
        if len(tries) <= times:
            raise error

    return call, tries


@pytest.mark.parametrize("many", [False, True])
def test_what_passes_is_tried_again_after_longer_and_longer_pauses(quick, many):
    call, tries = failing(3, ConnectionResetError("the store hung up"))

    def single() -> None:
        call()

    def several():
        call()
        yield dg.MaterializeResult(asset_key="made")

    result, retries = run(several if many else single, many)
    assert result.success and len(tries) == 4 and len(retries) == 3
    waits = [event.step_retry_data.seconds_to_wait for event in retries]
    assert waits == pytest.approx([0.01, 0.02, 0.04])
    assert all(b - a >= wait for a, b, wait in zip(tries, tries[1:], waits, strict=False))


def test_what_does_not_pass_in_time_fails_with_its_own_error(quick):
    call, tries = failing(99, ConnectionResetError("the store hung up"))

    def asset() -> None:
        call()

    result, _ = run(asset)
    assert not result.success and len(tries) == 1 + define.MAX_RETRIES
    (failure,) = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
    assert "the store hung up" in str(failure.step_failure_data.error)


@pytest.mark.parametrize("error", [BadInputError("a bad file"), ValueError("a bug"), OSError(28, "disk full")])
def test_what_a_person_must_mend_fails_at_once(quick, error):
    call, tries = failing(1, error)

    def asset() -> None:
        call()

    result, retries = run(asset)
    assert not result.success and len(tries) == 1 and not retries


def test_the_first_pauses_outlast_a_restart_of_a_server():
    assert sum(define.FIRST_WAIT_SECONDS * 2**n for n in range(define.MAX_RETRIES)) >= 300


def test_every_asset_is_declared_this_way():
    for asset in all_assets():
        assert hasattr(asset.op.compute_fn.decorated_fn, "__wrapped__"), asset.keys


STEP = """
import sys, time
from pathlib import Path
import dagster as dg
from assets.define import asset
from ml.warehouse import Warehouse

root, home, day, log = sys.argv[1:]

@asset(name="made", partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
def made(warehouse: dg.ResourceParam[Warehouse]) -> None:
    with Path(log).open("a") as file:
        for what in ("in", "out"):
            file.write(f"{what} {time.monotonic()}\\n")
            file.flush()
            time.sleep(1 if what == "in" else 0)

with dg.DagsterInstance.local_temp(home) as instance:
    result = dg.materialize([made], instance=instance, partition_key=day, resources={"warehouse": Warehouse(root)})
"""


@pytest.mark.parametrize("days", [("2026-01-02", "2026-01-02"), ("2026-01-02", "2026-01-03")])
def test_two_processes_take_turns_in_a_step(tmp_path, days):
    log = tmp_path / "log"
    homes = [tmp_path / "dagster of one", tmp_path / "dagster of the other"]
    children = []
    for home, day in zip(homes, days, strict=True):
        home.mkdir()
        command = [sys.executable, "-c", STEP, str(tmp_path / "warehouse"), str(home), day, str(log)]
        children.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    said = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["in", "out", "in", "out"]
    assert sum("another run is in this step" in text for text in said) <= 1


@pytest.mark.parametrize(
    ("partitions", "key", "held"),
    [
        (dg.StaticPartitionsDefinition(["Hats", "Coats"]), "Hats", {"made Hats"}),
        (dg.DailyPartitionsDefinition("2026-01-01"), "2026-01-02", {"made"}),
        (None, None, {"made"}),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_a_models_step_keeps_itself_to_itself_a_days_step_all_days(tmp_path, partitions, key, held, many):
    found = set()

    def busy(name):
        found.add(name)
        raise InterruptedError

    def look():
        for name in ("made", "made Hats", "made Coats", "made 2026-01-02"):
            with suppress(InterruptedError), Warehouse(tmp_path).step(name, lambda name=name: busy(name)):
                pass

    def single(warehouse: dg.ResourceParam[Warehouse]) -> None:
        look()

    def several(warehouse: dg.ResourceParam[Warehouse]):
        look()
        yield dg.MaterializeResult(asset_key="made")

    declare = define.multi_asset(specs=[dg.AssetSpec("made")], name="made", partitions_def=partitions)
    made = declare(several) if many else define.asset(name="made", partitions_def=partitions)(single)
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([made], instance=instance, partition_key=key, resources={"warehouse": Warehouse(tmp_path)})
    assert found == held <= set(define.step_names([made])), "`hemline clean` holds them by these names"


def test_a_step_waits_for_the_one_that_holds_it_and_says_so(tmp_path):
    warehouse, waited = Warehouse(tmp_path), []
    with warehouse.step("lists"), warehouse.step("others", lambda: waited.append("others")):
        held = Warehouse(tmp_path).step("lists", lambda: (_ for _ in ()).throw(InterruptedError))
        with pytest.raises(InterruptedError), held:
            pass
    assert not waited
    with Warehouse(tmp_path).step("lists", lambda: waited.append("lists")):
        assert not waited
