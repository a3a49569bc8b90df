"""How likely a model finds the responses: logits at the response's positions only, losses and perplexities."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.errors import HemlineError
from ml.files import write_file
from ml.language_model.batches import IGNORED, PromptTokens, collate, length_sorted_batches

if TYPE_CHECKING:
    import torch
    from torch import nn

CHUNK_BATCHES = 32
"""Batches whose results are kept together on disk: what a killed run may have to compute again."""


def response_logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits [n, vocabulary] that predict the batch's n response tokens, and these tokens [n].

    In row-major order. The output head runs at these n positions only: of prompts of 300 tokens with responses of
    25, a twelfth. It is the model's own head, so that a bias, scaling or soft cap of a family is in it. `model` may be
    wrapped by PEFT or for several GPUs.
    """
    # The last token predicts nothing, so it is not fed; what is left predicts labels shifted by one.
    labels = batch["labels"][:, 1:]
    wanted = labels != IGNORED
    inputs = {name: batch[name][:, :-1] for name in ("input_ids", "attention_mask", "position_ids")}
    accepted = _accepted_arguments(model)
    if accepted and "position_ids" not in accepted:
        del inputs["position_ids"]
    if "logits_to_keep" in accepted:
        logits = model(**inputs, logits_to_keep=wanted, use_cache=False).logits
    else:
        logits = model(**inputs, use_cache=False).logits[wanted]
    return logits, labels[wanted]


def _accepted_arguments(model: nn.Module) -> set[str]:
    """The argument names of the innermost model's `forward`."""
    inner: Any = model
    while hasattr(inner, "module"):
        inner = inner.module
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    return set(inspect.signature(type(inner).forward).parameters)


def precision(dtype: str, device_type: str) -> AbstractContextManager[Any]:
    """Mixed precision for a model in half precision whose LoRA weights are float32; nothing for float32."""
    import torch

    return torch.autocast(device_type, dtype=getattr(torch, dtype if dtype != "float32" else "bfloat16"),
                          enabled=dtype != "float32")  # fmt: skip


def negative_log_likelihoods(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return per row of the batch the mean negative log-likelihood of its response tokens, in nats; [batch]."""
    import torch

    logits, targets = response_logits(model, batch)
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    counts = (batch["labels"][:, 1:] != IGNORED).sum(dim=1)
    rows = torch.repeat_interleave(torch.arange(len(counts), device=losses.device), counts)
    return torch.zeros(len(counts), device=losses.device).index_add_(0, rows, losses) / counts


def mean_losses(
    model: nn.Module,
    prompts: PromptTokens,
    batch_size: int,
    dtype: str,
    folder: Path,
    label: str,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Compute every prompt's mean negative log-likelihood and keep it in `folder`, chunk by chunk.

    Finished chunks are not computed again. `share` (k, n) computes the k-th of n shares of the chunks: each process
    of a distributed run takes its own. Read the result with `read_losses`.
    """
    import torch
    from tqdm import tqdm

    batches = length_sorted_batches(prompts.lengths, batch_size)
    place = next(model.parameters()).device
    model.eval()
    chunks = [c for c in _chunks(len(batches))[share[0] :: share[1]] if not _chunk_file(folder, c).exists()]
    with tqdm(total=sum(len(c) for c in chunks), desc=label, unit="batch", disable=None) as bar:
        for chunk in chunks:
            values = []
            for number in chunk:
                batch = {n: t.to(place) for n, t in collate([prompts[int(r)] for r in batches[number]]).items()}
                with torch.inference_mode(), precision(dtype, place.type):
                    values.append(negative_log_likelihoods(model, batch).double().cpu().numpy())
                bar.update()
            write_file(_chunk_file(folder, chunk), lambda p, v=values: _save(p, np.concatenate(v)))


def read_losses(prompts: PromptTokens, batch_size: int, folder: Path) -> np.ndarray:
    """Return what `mean_losses` kept, in the order of `prompts`; float64 [n]. Raises HemlineError for NaN."""
    batches = length_sorted_batches(prompts.lengths, batch_size)
    values = np.empty(len(prompts))
    if batches:
        parts = [np.load(_chunk_file(folder, c), allow_pickle=False) for c in _chunks(len(batches))]
        values[np.concatenate(batches)] = np.concatenate(parts)
    if not np.isfinite(values).all():
        raise HemlineError(
            "the model's loss on a prompt is not a number; lower language_model.learning_rate or use dtype float32"
        )
    return values


def _chunks(batches: int) -> list[range]:
    return [range(i, min(i + CHUNK_BATCHES, batches)) for i in range(0, batches, CHUNK_BATCHES)]


def _chunk_file(folder: Path, chunk: range) -> Path:
    return folder / f"batches-{chunk.start:07d}.npy"


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)
