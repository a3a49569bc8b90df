"""The LoRA adapter: which layers it is put on, how it is saved, and what training it returns (paper 4.3)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from ml.errors import BadInputError
from ml.settings import LanguageModelSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

_WEIGHTS = "adapter_model.safetensors"


@dataclass
class AdapterResult:
    """What training made.

    `folder` holds the adapter (safetensors). `perplexity` is the `prompt_perplexity` table. `losses` are (optimiser
    step, mean loss in nats per response token since the last one), over both phases. `validation` are the validation
    losses after each phase, `validation_loss` that of the adapter in `folder`; None without validation prompts.
    `tokens` counts the tokens trained on, padding not included; `seconds` is the time of training and of the
    perplexities, summed over restarts up to what a kill lost.
    """

    folder: Path
    perplexity: pa.Table
    losses: list[tuple[int, float]]
    validation_loss: float | None
    tokens: int
    seconds: float
    validation: list[tuple[int, float]] = field(default_factory=list)


def block_path(model: nn.Module) -> str:
    """The name of the list of transformer blocks: the longest module list that stands in no other one."""
    from torch import nn

    found: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = len(module)
    if not found:
        raise BadInputError(f"{type(model).__name__}: no list of transformer blocks found to put LoRA on")
    return max(found, key=lambda name: found[name])


def lora_targets(model: nn.Module, trained_layers: int | None = None) -> list[str]:
    """Return the full names of the linear layers (4-bit ones too) of the newest `trained_layers` blocks; None: all.

    Found, not listed: everything linear inside the blocks, so neither embeddings nor the output head. With only the
    newest blocks trained, nothing below them needs a gradient, and no graph is kept there.
    """
    from torch import nn

    path = block_path(model)
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    first = 0 if trained_layers is None else max(0, len(blocks) - trained_layers)
    targets = [
        f"{path}.{number}.{name}"
        for number in range(first, len(blocks))
        for name, module in blocks[number].named_modules()
        if isinstance(module, nn.Linear)
    ]
    if not targets:
        raise BadInputError(f"{type(model).__name__}: no linear layers found in {path} to put LoRA on")
    return targets


def add_lora(model: PreTrainedModel, settings: LanguageModelSettings) -> PeftModel:
    """Return `model` with fresh LoRA weights (seeded, float32); everything else is frozen.

    `peft.prepare_model_for_kbit_training` is not used: freezing is done here too, and its float32 copies of
    embeddings and norms would cost an nf4 model much of the memory it saves.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=lora_targets(model, settings.trained_layers),
    )
    torch.manual_seed(settings.seed)
    return get_peft_model(model, config)  # type: ignore[return-value]


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter's safetensors and config into `folder`, without this machine's paths."""
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = Path(config.get("base_model_name_or_path") or "").name
    # A set in memory: sorted, so that the same adapter is the same bytes.
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)


def load_adapter_weights(model: PeftModel, folder: Path) -> None:
    """Put a saved adapter's weights into the adapter that `model` already has."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / _WEIGHTS))
