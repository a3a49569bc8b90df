"""Reading a saved model's folder: what is missing, foreign or of another shape is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.errors import BadInputError

if TYPE_CHECKING:
    import torch


def read_description(folder: Path, name: str, model_format: str) -> dict[str, Any]:
    """Return the JSON object `name` of a saved model, after checking that its `format` is `model_format`.

    Raises `BadInputError` if the file is missing, is no JSON object, or describes something else.
    """
    path = folder / name
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: missing; expected a folder saved as {model_format!r}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInputError(f"{path}: not JSON ({error}); save the model again") from error
    if not isinstance(description, dict) or description.get("format") != model_format:
        found = description.get("format") if isinstance(description, dict) else type(description).__name__
        raise BadInputError(
            f"{path}: format is {found!r}, expected {model_format!r}; if another version of Hemline saved it, fit it "
            "again (`hemline train`)"
        )
    return description


def load_weights(network: torch.nn.Module, path: Path) -> None:
    """Fill `network` from a safetensors file; raises `BadInputError` unless names and shapes are exactly its own."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
        network.load_state_dict(state, strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInputError(f"{path}: does not hold this model's weights ({error}); save the model again") from error
