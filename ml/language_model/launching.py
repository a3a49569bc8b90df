"""Fine-tuning by several processes of this machine: `accelerate launch` as a child, whose result comes back in files.

The caller (a Dagster step) stays one process: it holds the MLflow run and passes on the metrics that the first of the
training processes writes to a file. Below the work folder, beside what `training` keeps there:

    launch/request.json, train.arrow, validation.arrow     what to train; token ids and example ids only
    launch/metrics.jsonl, result.json, perplexity.arrow    what came out
    launch/error.json                                      the sentence of an error of our own

`launch/` is removed at the end; the next start empties what a killed one left.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.feather as feather

from ml.errors import BadInputError, HemlineError
from ml.files import read_json, write_json
from ml.language_model.adapter import AdapterResult
from ml.language_model.training import train_adapter
from ml.settings import LanguageModelSettings

if TYPE_CHECKING:
    from ml.language_model.trainer import Metrics

COLUMNS = ("example_id", "variant", "input_ids", "response_ids")
"""What training reads of the prompts; no customer's id and no text."""
_POLL_SECONDS = 0.5


def fit_adapter(
    model_folder: Path,
    train: pa.Table,
    validation: pa.Table,
    settings: LanguageModelSettings,
    work_dir: Path,
    run: Metrics | None = None,
) -> AdapterResult:
    """Do what `train_adapter` does, in `settings.processes` processes: in this one, or by `accelerate launch`.

    Killed and called again, several processes go on from their newest complete checkpoint too. If this process dies, so
    do they. Raises what `train_adapter` raises, and HemlineError where a process ends without a word.
    """
    if settings.processes == 1:
        return train_adapter(model_folder, train, validation, settings, work_dir, run)
    _check_devices(settings.processes)
    folder = work_dir / "launch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for name, rows in {"train": train, "validation": validation}.items():
            feather.write_feather(rows.select(COLUMNS), str(folder / f"{name}.arrow"))
        request = {"model_folder": str(model_folder), "settings": settings.model_dump(mode="json")}
        write_json(folder / "request.json", request)
        with _launched(folder, settings.processes) as child:
            sent = _follow(child, folder / "metrics.jsonl", run)
        _pass_on(folder / "metrics.jsonl", sent, run)
        return _result(folder, child.returncode)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_devices(processes: int) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if gpus and processes > gpus:
        raise BadInputError(
            f"language_model.processes is {processes} and this machine has {gpus} GPU(s): expected at most one process "
            "a GPU"
        )


@contextmanager
def _launched(folder: Path, processes: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the processes; they end with the block, and with this process: their standard input ends then."""
    # --multi_gpu means "one process a device here": without a GPU the processes talk over gloo.
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "--num_cpu_threads_per_process", str(max(1, len(_own_cores()) // processes)),
        "-m", "ml.language_model.launched", str(folder),
    ]  # fmt: skip
    root = str(Path(__file__).parents[2])  # an `ml` that is not installed is found by the children too
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
        try:
            child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdin is not None:
            child.stdin.close()


def _own_cores() -> set[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _follow(child: subprocess.Popen[bytes], metrics: Path, run: Metrics | None) -> int:
    """Pass metrics on until the processes end; return how many bytes of the file were."""
    sent = 0
    while True:
        try:
            child.wait(timeout=_POLL_SECONDS)
            return sent
        except subprocess.TimeoutExpired:
            sent = _pass_on(metrics, sent, run)


def _pass_on(metrics: Path, sent: int, run: Metrics | None) -> int:
    """Send the whole lines behind the first `sent` bytes to `run`; return how far that went."""
    if run is None or not metrics.exists():
        return sent
    with metrics.open("rb") as file:
        file.seek(sent)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    for line in whole.splitlines():
        name, value, step = json.loads(line)
        run.metric(name, value, step)
    return sent + len(whole)


def _result(folder: Path, status: int) -> AdapterResult:
    error = read_json(folder / "error.json")
    if error is not None:
        raise (BadInputError if error["kind"] == BadInputError.__name__ else HemlineError)(error["message"])
    found: dict[str, Any] | None = read_json(folder / "result.json")
    if status != 0 or found is None:
        raise HemlineError(
            f"language model: the training processes ended with status {status}; what they wrote to the run's "
            "standard error says why. Run again: it goes on from the newest checkpoint"
        )
    pairs = {name: [tuple(pair) for pair in found[name]] for name in ("losses", "validation")}
    perplexity = feather.read_table(str(folder / "perplexity.arrow"), memory_map=False)
    return AdapterResult(**{**found, **pairs, "folder": Path(found["folder"]), "perplexity": perplexity})


def write_result(folder: Path, result: AdapterResult) -> None:
    """Write what `fit_adapter` reads in the process that launched this one."""
    feather.write_feather(result.perplexity, str(folder / "perplexity.arrow"))
    values = {k: v for k, v in vars(result).items() if k not in ("perplexity", "folder")}
    write_json(folder / "result.json", {**values, "folder": str(result.folder)})


def write_error(folder: Path, error: HemlineError) -> None:
    """Write an error of our own, so that its sentence is what the person reads."""
    write_json(folder / "error.json", {"kind": type(error).__name__, "message": str(error)})
