"""The language model: the base snapshot, LoRA fine-tuning on prompts, and loading the adapted model (paper 4.3).

Importing this package is light; torch, transformers and peft are loaded by the functions that use them.
"""

from ml.language_model.adapter import AdapterResult
from ml.language_model.expected import slow_fit
from ml.language_model.launching import fit_adapter
from ml.language_model.loading import has_gpu, load_adapted_model, load_base_model, load_tokenizer, number_type
from ml.language_model.plots import plot_losses
from ml.language_model.snapshots import prepare_base_model, snapshot_fingerprint
from ml.language_model.training import train_adapter

__all__ = [
    "AdapterResult",
    "fit_adapter",
    "has_gpu",
    "load_adapted_model",
    "load_base_model",
    "load_tokenizer",
    "number_type",
    "plot_losses",
    "prepare_base_model",
    "slow_fit",
    "snapshot_fingerprint",
    "train_adapter",
]
