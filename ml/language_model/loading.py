"""Loading: tokenizer, base model, adapted model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.errors import BadInputError
from ml.settings import LanguageModelSettings

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NF4_BLOCK = 64
"""Weights per scale in bitsandbytes' nf4."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the snapshot's tokenizer, padding on the left; a tokenizer without a padding token pads with its end."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{folder}: no tokenizer that transformers can load; expected tokenizer.json or the like ({error})"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def device() -> torch.device:
    """The device models run on: this process's own GPU under a launcher, the first GPU, or the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def has_gpu() -> bool:
    """Whether models run on a GPU here."""
    return device().type != "cpu"


def number_type(settings: LanguageModelSettings) -> str:
    """The type of numbers that the model computes in on this machine: `settings.dtype`, with `auto` decided."""
    if settings.dtype != "auto":
        return settings.dtype
    import torch

    if has_gpu():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # The instructions of Intel's and AMD's CPUs; without them bfloat16 is slower than float32.
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("amx_bf16") or able.get("avx512_bf16") else "float32"


def load_base_model(folder: Path, settings: LanguageModelSettings) -> PreTrainedModel:
    """Return the snapshot's causal language model in eval mode, in its `number_type`, nf4-quantised if set.

    Raises BadInputError where the folder holds no causal model, or float16 is asked for without a GPU.
    """
    import torch
    from transformers import AutoModelForCausalLM

    place = device()
    if settings.dtype == "float16" and place.type == "cpu":
        raise BadInputError("language_model.dtype: float16 needs a GPU; use float32 or bfloat16 on a CPU")
    dtype = getattr(torch, number_type(settings))
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": place}, "local_files_only": True}
    if settings.quantization == "nf4":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{folder}: not a causal language model that transformers can load; expected config.json and "
            f"*.safetensors ({error})"
        ) from error
    if settings.quantization == "nf4":
        _repack(model, allowed=False)
    return model.eval()


def _repack(model: nn.Module, allowed: bool) -> None:
    """Say whether 4-bit layers may rearrange their weights for the CPU's bfloat16 instructions when they first infer.

    That makes generation faster and rounds the weights' scales to bfloat16 for good. So never in training, where the
    perplexities between the phases would change the weights that the second phase trains on; and only for shapes
    that bitsandbytes can rearrange (it fails on others).
    """
    from bitsandbytes.functional import has_avx512bf16
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            fits = module.out_features % 32 == 0 and module.in_features % _NF4_BLOCK == 0
            module.support_avx512bf16_for_cpu = allowed and fits and has_avx512bf16()


def load_adapted_model(model_folder: Path, adapter_folder: Path, settings: LanguageModelSettings) -> PreTrainedModel:
    """Return the base model with a trained adapter, in eval mode, for generating.

    In float32 the adapter is merged into the weights: two matrix products fewer per layer. It is not merged into
    bfloat16 or nf4 weights, whose rounding would swallow part of it.
    """
    from peft import PeftModel

    if not (adapter_folder / "adapter_config.json").is_file():
        raise BadInputError(f"{adapter_folder}: no adapter here; expected adapter_config.json and its safetensors")
    model: Any = PeftModel.from_pretrained(load_base_model(model_folder, settings), str(adapter_folder))
    numbers = number_type(settings)
    if numbers == "float32" and settings.quantization == "none":
        model = model.merge_and_unload()
    if numbers == "bfloat16" and settings.quantization == "nf4":
        _repack(model, allowed=True)
    return model.eval()
