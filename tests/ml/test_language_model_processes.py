"""`accelerate launch`: several processes train what one does, are resumed, tell their errors, and end with us."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ml.errors import HemlineError
from ml.language_model import fit_adapter, train_adapter
from tests.ml.language_model_examples import Recorder, prompts, quick, snapshot

ROOT = Path(__file__).parents[2]
SAME = {"lora_dropout": 0.0, "epochs": 6}
ONE, TWO = {"batch_size": 4, **SAME}, {"batch_size": 2, "processes": 2, **SAME}
KILLED = f"""
import os, signal, sys
from pathlib import Path
from ml.language_model import fit_adapter, launching
from tests.ml.language_model_examples import prompts, quick

class Dies:
    def metric(self, name, value, step=None):
        if step > 3:
            os.kill(os.getpid(), signal.SIGKILL)

launching._POLL_SECONDS = 0.02
root = Path(sys.argv[1])
fit_adapter(root / "model", prompts(23), prompts(6, seed=1), quick(**{TWO}), root / "two", Dies())
"""


@pytest.fixture(scope="module", autouse=True)
def _small(one_thread):
    """Models this small are slower on several threads."""


def test_two_processes_killed_and_run_again_give_one_process_s_losses(tmp_path):
    """The same global batch: two prompts in each of two processes, four in one; an epoch's last is not full."""
    folder, train, validation = snapshot(tmp_path / "model"), prompts(23), prompts(6, seed=1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, env=environment)
    started = {}
    while launcher.poll() is None:
        for process in psutil.Process(launcher.pid).children(recursive=True):
            started[process.pid] = process
        time.sleep(0.1)
    assert launcher.returncode == -signal.SIGKILL and len(started) >= 3
    _, alive = psutil.wait_procs(started.values(), timeout=60)
    assert not alive, "the training processes ended with the one that started them"
    epochs = tmp_path / "two" / "epochs"
    assert not (epochs / "done.json").exists()
    kept = max(int(path.parent.name.rpartition("-")[2]) for path in epochs.glob("checkpoint-*/complete.json"))

    one, two = Recorder(), Recorder()
    together = fit_adapter(folder, train, validation, quick(**TWO), tmp_path / "two", two)
    alone = train_adapter(folder, train, validation, quick(**ONE), tmp_path / "one", one)
    assert [step for step, _ in together.losses] == [step for step, _ in alone.losses] == list(range(1, 41))
    np.testing.assert_allclose([x for _, x in together.losses], [x for _, x in alone.losses], rtol=1e-3)
    np.testing.assert_allclose([x for _, x in together.validation], [x for _, x in alone.validation], rtol=1e-3)
    assert together.tokens == alone.tokens
    assert together.perplexity["example_id"].equals(alone.perplexity["example_id"])
    np.testing.assert_allclose(together.perplexity["perplexity"], alone.perplexity["perplexity"], rtol=1e-3)
    told = [(name, step) for name, _, step in two.values]
    assert told == [(name, step) for name, _, step in one.values if step > kept], "all of the rest, and once"
    assert (together.folder / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "two" / "launch").exists()


def test_an_error_of_ours_keeps_its_sentence(tmp_path):
    folder = snapshot(tmp_path / "model")
    with pytest.raises(HemlineError, match=r"step \d+: .*learning_rate \(now 1e\+20\)"):
        fit_adapter(
            folder, prompts(16), prompts(0), quick(**TWO, learning_rate=1e20, warmup_share=0), tmp_path / "work"
        )


def test_no_customer_and_no_text_goes_into_the_request(tmp_path, monkeypatch):
    from ml.language_model import launching

    seen = {}

    def look(folder, processes):
        seen.update({path.name: path.read_bytes() for path in folder.iterdir()})
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "_launched", look)
    rows = prompts(4).to_pylist()
    for row in rows:
        row.update(user_id="CANARY-USER", text="CANARY-TEXT")
    table = prompts(0).from_pylist(rows, prompts(0).schema)
    with pytest.raises(KeyboardInterrupt):
        fit_adapter(snapshot(tmp_path / "model"), table, prompts(0), quick(**TWO), tmp_path / "work")
    assert {"request.json", "train.arrow", "validation.arrow"} == set(seen)
    assert not any(b"CANARY" in content for content in seen.values())
    assert not (tmp_path / "work" / "launch").exists()
