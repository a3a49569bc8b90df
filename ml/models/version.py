"""A registered model: a folder of plain files (safetensors, JSON, NumPy, Arrow, faiss) under a name and a number."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

MODEL_PATH = "model"
"""Where a run keeps its model's files, below its artifacts."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered model version and the local folder of its files."""

    kind: str
    scope: str
    version: str
    folder: Path
    run_id: str
    tags: dict[str, str]

    @property
    def as_of(self) -> str | None:
        """The day whose state of the world the model was made for."""
        return self.tags.get("as_of")

    @property
    def fitted_until(self) -> str | None:
        """The newest day whose events the model was fitted on."""
        return self.tags.get("fitted_until")


def registered_name(kind: str, scope: str) -> str:
    """The registered model's name: a scope with other characters than letters, digits, '_' and '-' gets a hash."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", scope).strip("-")
    if slug != scope:
        slug = f"{slug}-{hashlib.sha256(scope.encode()).hexdigest()[:8]}".strip("-")
    return f"hemline-{kind}-{slug}"


def local_folder(found: MlflowVersion) -> Path | None:
    """Where a version's files lie on a local disk; None where a server holds them."""
    source = urlparse(found.source or "")
    return Path(unquote(source.path)) if source.scheme in ("", "file") else None
