"""Fine-tuning from first to last: two phases with the perplexities between them, each restartable (paper 4.3, 5.1).

What a work folder holds, in the order it is made; a run that was killed goes on from what is there:

    inputs.json            what the folder was made from; other inputs start afresh
    epochs/                checkpoints, then adapter/ and done.json
    perplexity/            the training prompts' losses, chunk by chunk
    hardest/               checkpoints, then adapter/ and done.json

The result is the adapter of one of the two phases (`language_model.keep`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ml.errors import BadInputError, HemlineError
from ml.files import make_folder, read_json, remove_temporaries, write_json
from ml.language_model import checkpoints
from ml.language_model.adapter import AdapterResult, add_lora, load_adapter_weights, save_adapter
from ml.language_model.batches import PromptTokens, Subset
from ml.language_model.likelihood import mean_losses, read_losses
from ml.language_model.loading import load_base_model
from ml.language_model.snapshots import snapshot_fingerprint
from ml.settings import LanguageModelSettings
from ml.tables import TABLES

if TYPE_CHECKING:
    from ml.language_model.trainer import Metrics

_PARTS = ("epochs", "perplexity", "hardest")


def train_adapter(
    model_folder: Path,
    train: pa.Table,
    validation: pa.Table,
    settings: LanguageModelSettings,
    work_dir: Path,
    run: Metrics | None = None,
) -> AdapterResult:
    """Fine-tune a LoRA adapter on prompts and return it with what was measured on the way.

    `train` and `validation` have the `prompts` schema; `validation` may be empty. All prompts are trained for
    `settings.epochs`; then the `hard_share` with the highest perplexity for `hard_epochs` more, with a learning rate
    schedule of their own. Losses go to `run` as metrics while it trains.

    Killed at any moment and called again with the same inputs, it goes on from the newest complete checkpoint in
    `work_dir` and ends where an unbroken run would: on a CPU with the same number of threads bit for bit. With other
    inputs, `work_dir` is started afresh. Under `accelerate launch` or torchrun every process calls this with the same
    arguments; `work_dir` must be one folder that all of them see.

    Raises BadInputError for an empty table, an empty prompt or one for another tokenizer, HemlineError where training
    diverges or another run holds `work_dir`.
    """
    if train.num_rows == 0:
        raise BadInputError(
            "language model: there are no training prompts; expected at least one row in the train split. Check the "
            "category, sequences.min_item_steps and the dates, or use the pooled model"
        )
    from accelerate import PartialState

    from ml.language_model.loading import device, number_type

    settings = settings.model_copy(update={"dtype": number_type(settings)})
    processes = PartialState(cpu=device().type == "cpu")
    with _held(work_dir, processes):
        work = _Work(model_folder, train, validation, settings, work_dir, run, processes)
        if processes.is_main_process:
            work.bind()
        processes.wait_for_everyone()
        return work.result()


@dataclass
class _Work:
    """One fine-tuning in its work folder."""

    model_folder: Path
    train: pa.Table
    validation: pa.Table
    settings: LanguageModelSettings
    folder: Path
    run: Metrics | None
    processes: Any

    def __post_init__(self) -> None:
        size = json.loads((self.model_folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
        self.train_tokens = PromptTokens(self.train, size)
        self.validation_tokens = PromptTokens(self.validation, size)
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The base model with LoRA, loaded when first needed."""
        if self._model is None:
            self._model = add_lora(load_base_model(self.model_folder, self.settings), self.settings)
        return self._model

    def bind(self) -> None:
        """Delete what `folder` holds of other inputs, and what a killed process left half-written."""
        inputs = {
            "model": snapshot_fingerprint(self.model_folder),
            "train": _content(self.train, self.train_tokens),
            "validation": _content(self.validation, self.validation_tokens),
            "settings": self.settings.model_dump(mode="json", exclude={"base_model", "revision", "keep", "processes"}),
            "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
            "processes": self.processes.num_processes,
        }
        if read_json(self.folder / "inputs.json") != inputs:
            (self.folder / "inputs.json").unlink(missing_ok=True)
            for name in _PARTS:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            write_json(self.folder / "inputs.json", inputs)
        remove_temporaries(self.folder)
        for phase in ("epochs", "hardest"):
            finished = (self.folder / phase / "done.json").exists()
            (checkpoints.delete_all if finished else checkpoints.keep_newest)(self.folder / phase)

    def result(self) -> AdapterResult:
        """Do what is not yet done and return the result."""
        rows = np.arange(len(self.train_tokens))
        first = self._phase("epochs", rows, self.settings.epochs, None, 0)
        perplexity, hardest, seconds = self._perplexities()
        phases = [first]
        if len(hardest) and self.settings.hard_epochs:
            phases.append(self._phase("hardest", hardest, self.settings.hard_epochs, first, first["steps"]))
        kept = self._kept(phases)
        validation = [(p["steps"], p["validation"]) for p in phases if p["validation"] is not None]
        return AdapterResult(
            folder=self.folder / kept["name"] / "adapter",
            perplexity=perplexity,
            losses=[(int(step), float(loss)) for p in phases for step, loss in p["losses"]],
            validation_loss=kept["validation"],
            tokens=sum(p["tokens"] for p in phases),
            seconds=sum(p["seconds"] for p in phases) + seconds,
            validation=validation,
        )

    def _kept(self, phases: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the phase whose adapter is the result; without validation prompts that is the last."""
        losses = [phase["validation"] for phase in phases]
        if self.settings.keep == "last" or None in losses:
            return phases[-1]
        return phases[losses.index(min(losses))]

    def _phase(
        self, name: str, rows: np.ndarray, epochs: int, after: dict[str, Any] | None, first_step: int
    ) -> dict[str, Any]:
        """Train `rows` for `epochs` on top of the phase `after`; return the phase's record, from disk if it is done."""
        folder = self.folder / name
        done = read_json(folder / "done.json")
        if done is not None:
            return done
        from ml.language_model.trainer import AdapterTrainer

        if after is not None:
            load_adapter_weights(self.model, self.folder / after["name"] / "adapter")
        trainer = AdapterTrainer(
            self.model,
            Subset(self.train_tokens, rows),
            self.settings,
            folder,
            epochs=epochs,
            label=f"training {len(rows)} {'prompts' if after is None else 'hardest prompts'}",
            first_step=first_step,
            run=self.run,
        )
        losses, seconds = trainer.fit()
        steps = first_step + trainer.state.global_step
        validation = self._validation_loss(folder / "validation", steps)
        record = {
            "name": name,
            "steps": steps,
            "losses": losses,
            "validation": validation,
            "tokens": int(self.train_tokens.lengths[rows].sum()) * epochs,
            "seconds": seconds,
        }
        if self.processes.is_main_process:
            make_folder(folder / "adapter", lambda target: save_adapter(self.model, target))
            write_json(folder / "done.json", record)
            checkpoints.delete_all(folder)
        self.processes.wait_for_everyone()
        return record

    def _validation_loss(self, folder: Path, step: int) -> float | None:
        """The mean loss over the validation prompts' response tokens."""
        if not len(self.validation_tokens):
            return None
        losses = self._losses(self.validation_tokens, folder, "validation loss")
        loss = float(np.average(losses, weights=self.validation_tokens.response_lengths))
        if self.run is not None and self.processes.is_main_process:
            self.run.metric("validation_loss", loss, step)
        return loss

    def _perplexities(self) -> tuple[pa.Table, np.ndarray, float]:
        """The `prompt_perplexity` table, the rows trained longer, and the seconds it took; after the first phase."""
        folder = self.folder / "perplexity"
        seconds = read_json(folder / "done.json")
        if seconds is None:
            started = time.monotonic()
            load_adapter_weights(self.model, self.folder / "epochs" / "adapter")
            self._losses(self.train_tokens, folder, "perplexity of the training prompts")
            seconds = time.monotonic() - started
            if self.processes.is_main_process:
                write_json(folder / "done.json", seconds)
            self.processes.wait_for_everyone()
        losses = read_losses(self.train_tokens, self._evaluation_batch, folder)
        hardest = hardest_rows(losses, self.train, self.settings.hard_share)
        longer = np.zeros(len(losses), bool)
        longer[hardest] = self.settings.hard_epochs > 0
        columns = [
            self.train["example_id"].combine_chunks(),
            self.train["variant"].combine_chunks(),
            pa.array(np.exp(losses)),
            pa.array(longer),
        ]
        return pa.Table.from_arrays(columns, schema=TABLES["prompt_perplexity"].schema), hardest, seconds

    def _losses(self, prompts: PromptTokens, folder: Path, label: str) -> np.ndarray:
        share = (self.processes.process_index, self.processes.num_processes)
        mean_losses(self.model, prompts, self._evaluation_batch, self.settings.dtype, folder, label, share)
        self.processes.wait_for_everyone()
        return read_losses(prompts, self._evaluation_batch, folder)

    @property
    def _evaluation_batch(self) -> int:
        # Nothing is kept for a backward pass, so more fits.
        return 2 * self.settings.batch_size


def hardest_rows(losses: np.ndarray, prompts: pa.Table, share: float) -> np.ndarray:
    """Return the row numbers of the `share` of prompts with the highest loss, in table order; ties by example id."""
    keys = [f"{e}\0{v}" for e, v in zip(prompts["example_id"].to_pylist(), prompts["variant"].to_pylist(), strict=True)]
    order = np.lexsort((np.array(keys), -losses))
    return np.sort(order[: int(np.ceil(share * len(losses) - 1e-9))])


def _content(table: pa.Table, tokens: PromptTokens) -> str:
    """A hash of everything training reads of a prompts table."""
    digest = hashlib.sha256(tokens.content_hash().encode())
    for column in ("example_id", "variant"):
        for value in table[column].to_pylist():
            digest.update(f"{value}\0".encode())
    return digest.hexdigest()


@contextmanager
def _held(work_dir: Path, processes: Any) -> Iterator[None]:
    """Keep other runs out of `work_dir`; the system lets go of the lock of a killed process."""
    from filelock import FileLock, Timeout

    if not processes.is_main_process:
        yield
        return
    work_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work_dir / ".lock", timeout=0):
            yield
    except Timeout:
        raise HemlineError(f"{work_dir}: another run is training here; wait for it or stop it") from None
