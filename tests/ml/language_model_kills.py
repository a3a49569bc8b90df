"""A script: trains, is killed with SIGKILL at many points, goes on, and prints what each run ended with as JSON.

Every run is a forked child. This process itself only imports, so that a fork finds no threads of its own.
"""

import gc
import hashlib
import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path

import torch

from ml.language_model import likelihood, train_adapter, trainer
from tests.ml.language_model_examples import prompts, quick, snapshot

likelihood.CHUNK_BATCHES = 1


def forked(work):
    """Run `work` in a child; return its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(root, name):
    result = train_adapter(root / "model", prompts(26), prompts(6, seed=1), quick(), root / name)
    weights = (result.folder / "adapter_model.safetensors").read_bytes()
    outcome = {
        "weights": hashlib.sha256(weights).hexdigest(),
        "perplexity": result.perplexity.to_pylist(),
        "losses": result.losses,
        "validation": result.validation,
        "tokens": result.tokens,
    }
    (root / f"{name}.json").write_text(json.dumps(outcome))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def watch(folder, at, count_file=None):
    """Die at the `at`-th change of a file below `folder`; or write how many there were into `count_file`."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        changed = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if changed and str(folder) in str(arguments[0]):
            seen += 1
            if seen == at:
                die()
            if count_file:
                os.pwrite(count_file, f"{seen:8d}".encode(), 0)

    sys.addaudithook(hook)


def killed_in(method, call):
    """Die inside the trainer's `method`, at its `call`-th call."""
    original, calls = getattr(trainer.AdapterTrainer, method), []

    def patched(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            die()
        return original(self, *args, **kwargs)

    setattr(trainer.AdapterTrainer, method, patched)


def main(root):
    gc.freeze()  # what is imported is no work for the children's collectors
    forked(lambda: snapshot(root / "model"))
    counter = os.open(root / "count", os.O_CREAT | os.O_RDWR)

    def unbroken():
        watch(root / "unbroken", 0, counter)
        train(root, "unbroken")

    assert forked(unbroken) == 0
    changes = int(os.pread(counter, 8, 0))
    statuses = {}

    # Killed once, at a given place, then run again to the end.
    places = [("training_step", 8), ("_save_optimizer_and_scheduler", 3), ("_save_rng_state", 6)]
    for method, call in places:
        name = f"{method}-{call}"
        statuses[name] = [forked(lambda m=method, c=call, n=name: (killed_in(m, c), train(root, n)))]
        statuses[name].append(forked(lambda n=name: train(root, n)))

    # Killed again and again at changes of files, each time a different number of them further on.
    seeded = random.Random(0)
    statuses["again"] = []
    for _ in range(8):
        at = seeded.randint(changes // 8, changes // 3)
        status = forked(lambda a=at: (watch(root / "again", a), train(root, "again")))
        statuses["again"].append(status)
        if status == 0:
            break
    else:
        statuses["again"].append(forked(lambda: train(root, "again")))
    (root / "statuses.json").write_text(json.dumps(statuses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
