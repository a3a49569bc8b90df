"""A fine-tuning killed anywhere and run again ends where an unbroken one does, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What each run of the script ended with, by its name, and the exit statuses on the way."""
    folder = tmp_path_factory.mktemp("kills")
    done = subprocess.run(
        [sys.executable, "-m", "tests.ml.language_model_kills", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    statuses = json.loads((folder / "statuses.json").read_text())
    return {n: json.loads((folder / f"{n}.json").read_text()) for n in ["unbroken", *statuses]}, statuses, folder


def test_every_run_was_killed_and_then_finished(outcomes):
    _, statuses, _ = outcomes
    for name, codes in statuses.items():
        assert codes[0] == -signal.SIGKILL and codes[-1] == 0, (name, codes)
        assert set(codes[:-1]) == {-signal.SIGKILL}
    assert len(statuses["again"]) > 3


def test_killed_runs_end_bit_identical_to_the_unbroken_one(outcomes):
    results, statuses, _ = outcomes
    assert len(results["unbroken"]["losses"]) == 14 + 4
    for name in statuses:
        assert results[name] == results["unbroken"], name


def test_nothing_half_written_stays(outcomes):
    _, statuses, folder = outcomes
    for name in statuses:
        left = {p.name for p in (folder / name).rglob("*")}
        assert not any(n.startswith("checkpoint-") or n.endswith(".tmp") for n in left), name
