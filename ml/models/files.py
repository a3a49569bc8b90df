"""The files a registered model may consist of, and what tells two models of equal files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ml.errors import BadInputError

PLAIN_FILES = {
    *(".safetensors", ".json", ".jsonl", ".npy", ".arrow", ".parquet", ".faiss"),
    *(".txt", ".md", ".yaml", ".jinja", ".model"),  # a tokenizer's merges, templates and sentencepiece model
}
"""Endings of files that a model folder may hold: none of them can run code when it is read."""


def content_hash(folder: Path) -> str:
    """A hash of the names and bytes of all files below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{own}\n".encode())
    return digest.hexdigest()


def check_plain_files(folder: Path) -> None:
    """Raise `BadInputError` unless the folder holds files, all of a kind that cannot run code when read."""
    import numpy as np

    files = [path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink()]
    if not files:
        raise BadInputError(f"model folder {folder}: expected files, found none")
    for path in files:
        if path.is_symlink() or path.suffix not in PLAIN_FILES:
            allowed = ", ".join(sorted(PLAIN_FILES))
            raise BadInputError(f"model file {path}: refused, expected only plain files ({allowed}) and no links")
        if path.suffix == ".npy":
            try:
                np.load(path, mmap_mode="r", allow_pickle=False)
            except ValueError as error:
                raise BadInputError(f"model file {path}: refused, not a plain NumPy array ({error})") from error


def check_finite_weights(folder: Path) -> None:
    """Raise `BadInputError` naming the first weight below `folder` that is NaN or infinite, or a file that is cut."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for path in sorted(folder.rglob("*.safetensors")):
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"model file {path}: not whole ({error})") from error
        for name, values in weights.items():
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise BadInputError(f"model file {path}: weight {name} holds NaN or infinite values")
