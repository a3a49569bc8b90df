"""Text encoders by name: sentence-transformers, plain transformers encoders, and CLIP's text tower (paper 4.2).

Only safetensors weights are read: a pickle can run code.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ml.errors import BadInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PACKAGE = "package:"
_NOT_FETCHED = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "onnx/*", "openvino/*"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CLIP_TYPES = {"clip", "clip_text_model"}


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder: its name in the settings, the dimension of its vectors, and how it encodes."""

    name: str
    dim: int
    _encode: Callable[[list[str]], NDArray[np.float32]]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit-length vector per text, float32 [texts, dim]. A vector of zeros stays one."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = np.asarray(self._encode(list(texts)), dtype=np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def load_text_encoder(name: str, batch_size: int = 256) -> TextEncoder:
    """Load the encoder `name`: a folder, a hub name, or `package:NAME` for one that an installed package ships.

    A folder without sentence-transformers' own description gets mean pooling. Raises BadInputError where nothing is
    found or the weights are not safetensors.
    """
    folder = encoder_folder(name)
    parts = _module_folders(folder)
    if not any(any(part.glob("*.safetensors")) for part in parts) or any(_only_pickled(part) for part in parts):
        raise BadInputError(
            f"memory.encoder {name!r}: {folder} has weights that are not safetensors (a pickle can run code); "
            "save the model with safe_serialization"
        )
    config = folder / "config.json"
    model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type") if config.is_file() else None
    if model_type in _CLIP_TYPES and not (folder / "modules.json").exists():
        return _clip_text_tower(name, folder, batch_size)
    return _sentence_transformer(name, folder, batch_size)


def _sentence_transformer(name: str, folder: Path, batch_size: int) -> TextEncoder:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(folder), model_kwargs={"use_safetensors": True}, trust_remote_code=False, local_files_only=True
    ).eval()

    def encode(texts: list[str]) -> NDArray[np.float32]:
        many = len(texts) > 20 * batch_size
        return model.encode(texts, batch_size=batch_size, show_progress_bar=many, convert_to_numpy=True)

    return TextEncoder(name, encode(["a"]).shape[1], encode)


def _clip_text_tower(name: str, folder: Path, batch_size: int) -> TextEncoder:
    """CLIP's text tower with its projection (paper 4.2)."""
    import torch
    from tqdm import tqdm
    from transformers import AutoConfig, AutoTokenizer, CLIPTextModelWithProjection

    class TextTower(CLIPTextModelWithProjection):
        # A whole CLIP's image half is left on disk without a word.
        _keys_to_ignore_on_load_unexpected: ClassVar = [r"^vision_model\.", r"^visual_projection\.", r"^logit_scale$"]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    text_config = getattr(config, "text_config", config)
    # A whole CLIP keeps the width of its projection outside the text tower's part.
    text_config.projection_dim = config.projection_dim
    loaded: Any = TextTower.from_pretrained(
        str(folder), config=text_config, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    model, report = loaded
    if report["missing_keys"] or report["mismatched_keys"]:
        wrong = sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]}))
        raise BadInputError(
            f"memory.encoder {name!r}: no CLIP text tower in {folder}; weights that do not fit: {wrong}"
        )
    model = model.eval().to(device)
    longest: int = text_config.max_position_embeddings

    @torch.inference_mode()
    def encode(texts: list[str]) -> NDArray[np.float32]:
        parts = []
        for start in tqdm(range(0, len(texts), batch_size), desc="query vectors", disable=None):
            batch = tokenizer(
                texts[start : start + batch_size],
                padding=True,
                truncation=True,
                max_length=longest,
                split_special_tokens=True,
                return_tensors="pt",
            ).to(device)
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            parts.append(output.text_embeds.float().cpu().numpy())
        return np.concatenate(parts)

    return TextEncoder(name, text_config.projection_dim, encode)


def encoder_folder(name: str) -> Path:
    """Return the local folder of an encoder given as `package:NAME`, as a path, or by its hub name.

    Raises BadInputError, naming `memory.encoder`, where it cannot be had.
    """
    if name.startswith(_PACKAGE):
        return _package_folder(name.removeprefix(_PACKAGE))
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=_NOT_FETCHED))
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"memory.encoder {name!r}: no such folder, and the model hub gave no such model ({error}). "
            "Expected a folder, a hub name or package:NAME."
        ) from error


def _package_folder(package: str) -> Path:
    """The outermost folder with a config.json inside an installed package, which is located and never imported."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    roots = [] if spec is None else [Path(root) for root in spec.submodule_search_locations or ()]
    found = [path.parent for root in roots for path in root.rglob("config.json")]
    if not found:
        where = "is not installed" if not roots else "holds no config.json"
        raise BadInputError(f"memory.encoder '{_PACKAGE}{package}': the package {where}; install it or name another")
    return min(found, key=lambda folder: (len(folder.parts), str(folder)))


def _module_folders(folder: Path) -> list[Path]:
    """The folder and those of the modules that sentence-transformers would load from it."""
    modules = folder / "modules.json"
    listed = json.loads(modules.read_text(encoding="utf-8")) if modules.is_file() else []
    return [folder, *(folder / module["path"] for module in listed if module.get("path"))]


def _only_pickled(folder: Path) -> bool:
    """Whether a folder's weights are pickles, with no safetensors beside them."""
    return any(any(folder.glob(kind)) for kind in _PICKLES) and not any(folder.glob("*.safetensors"))
