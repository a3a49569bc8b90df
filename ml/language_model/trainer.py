"""transformers' Trainer for one phase: response-only loss, length-grouped order, checkpoints that count when complete.

Imported only by functions: it needs torch and transformers at once.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from ml.errors import HemlineError
from ml.language_model.batches import LengthGroupedOrder, PromptTokens, Subset, collate
from ml.language_model.checkpoints import keep_newest, mark_complete, newest_complete, seconds_trained
from ml.language_model.likelihood import precision, response_logits
from ml.settings import LanguageModelSettings

_LOGGED_STEPS = 500
"""At most about this many points of a loss curve."""


class Metrics(Protocol):
    """Where metrics go while training: an `ml.models.run.TrackedRun`, or anything like it."""

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record one value."""
        ...


class AdapterTrainer(Trainer):
    """Trains the LoRA weights of a model on prompts for a number of epochs, from the newest complete checkpoint."""

    def __init__(
        self,
        model: Any,
        prompts: PromptTokens | Subset,
        settings: LanguageModelSettings,
        folder: Path,
        *,
        epochs: int,
        label: str,
        first_step: int,
        run: Metrics | None,
    ) -> None:
        self.language_settings = settings
        self.folder, self.label, self.first_step = folder, label, first_step
        arguments = _arguments(settings, folder, epochs, len(prompts))
        super().__init__(model=model, args=arguments, train_dataset=prompts, data_collator=collate)  # type: ignore[arg-type]
        # compute_loss divides by the step's response tokens over all its batches and processes.
        self.model_accepts_loss_kwargs = True
        self.order = LengthGroupedOrder(
            prompts.lengths,
            settings.batch_size * settings.gradient_accumulation * self.args.world_size,
            settings.seed,
            filled=self.args.world_size > 1,
        )
        self.remove_callback(ProgressCallback)
        self.add_callback(_Follow(self.order, label, first_step, run))
        self._seconds_before, self._started = 0.0, time.monotonic()

    def fit(self) -> tuple[list[tuple[int, float]], float]:
        """Train to the end; return (step, loss) pairs, steps counted over both phases, and the seconds it took."""
        checkpoint = newest_complete(self.folder)
        self._seconds_before = seconds_trained(checkpoint) if checkpoint else 0.0
        self._started = time.monotonic()
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}  # type: ignore[union-attr]
        if not all(bool(torch.isfinite(p).all()) for p in weights.values()):
            raise self._diverged("the adapter's weights are not finite")
        losses = [(self.first_step + int(e["step"]), e["loss"]) for e in self.state.log_history if "loss" in e]
        return losses, self._elapsed()

    def _elapsed(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The summed response losses over the response tokens of the whole optimiser step, in nats."""
        device = inputs["input_ids"].device
        with precision(self.language_settings.dtype, device.type):
            logits, targets = response_logits(model, inputs)
        total = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
        items = len(targets) if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over processes, and the step's tokens are counted over all of them.
        loss = total / items * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss is {loss.item()}")
        return (loss, {"logits": logits}) if return_outputs else loss

    def _diverged(self, what: str) -> HemlineError:
        return HemlineError(
            f"language model, {self.label}, step {self.first_step + self.state.global_step + 1}: {what}. Try a lower "
            f"language_model.learning_rate (now {self.language_settings.learning_rate:g}), a longer warmup_share, or "
            f"dtype float32 (now {self.language_settings.dtype})"
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As transformers does, then marked complete: it writes into the final folder, where a kill leaves half."""
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(self.folder / f"checkpoint-{self.state.global_step}", self._elapsed())
            keep_newest(self.folder)
        self.accelerator.wait_for_everyone()


class _Follow(TrainerCallback):
    """Sets the order's epoch, shows a progress bar, records losses."""

    def __init__(self, order: LengthGroupedOrder, label: str, first_step: int, run: Metrics | None) -> None:
        self.order, self.label, self.first_step, self.run = order, label, first_step, run
        self.bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        disable = None if state.is_world_process_zero else True
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.label, unit="step", disable=disable)

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # accelerate passes the epoch on too, but not through its wrapper for skipped batches on several GPUs.
        self.order.set_epoch(int((state.epoch or 0) + 1e-6))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A logged loss is a mean since the last one; a restart begins a new mean, so an unbroken run does too.
        control.should_log = control.should_log or control.should_save
        if self.bar is not None:
            self.bar.update()

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        if self.run is not None:
            for name in ("loss", "learning_rate", "grad_norm"):
                if name in logs:
                    self.run.metric(name, logs[name], self.first_step + state.global_step)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def _arguments(settings: LanguageModelSettings, folder: Path, epochs: int, prompts: int) -> TrainingArguments:
    steps = -(-prompts // (settings.batch_size * settings.gradient_accumulation)) * epochs
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=min(settings.warmup_share, 0.999),
        max_grad_norm=1.0,
        optim="adamw_torch",
        weight_decay=0.0,
        # float16 needs its losses scaled; bfloat16 needs only the autocast of compute_loss.
        fp16=settings.dtype == "float16",
        activation_checkpointing=settings.gradient_checkpointing,
        logging_steps=max(1, steps // _LOGGED_STEPS),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_steps,
        seed=settings.seed,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        report_to=[],
        disable_tqdm=False,
    )
