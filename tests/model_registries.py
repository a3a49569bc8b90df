"""A real MLflow store to promote in, tiny models to promote, and ways to break the store at one point."""

import atexit
import json
import shutil
import sqlite3
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from ml.models.registry import ModelRegistry

TAGS = {"as_of": "2026-11-20", "fitted_until": "2026-11-18", "dagster_run_id": "d1", "code_version": "1"}


@cache
def empty_store():
    """An SQLite store that was made once: making its tables takes seconds."""
    path = Path(tempfile.mkdtemp(prefix="mlflow-store-"), "mlflow.db")
    ModelRegistry(f"sqlite:///{path}", path.parent, path.parent).client.search_experiments()
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    return path


def new_registry(home):
    """A registry on a new SQLite store."""
    shutil.copy(empty_store(), home / "mlflow.db")
    return ModelRegistry(f"sqlite:///{home}/mlflow.db", home / "artifacts", home / "cache")


def save_numbers(folder, numbers):
    """Save a 'model': its score of each example."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"examples": len(numbers)}))
    save_file({"numbers": torch.tensor(np.asarray(numbers, np.float64))}, folder / "model.safetensors")
    return folder


def load_numbers(folder):
    """What `save_numbers` wrote."""
    from safetensors.torch import load_file

    assert json.loads((folder / "config.json").read_text())["examples"]
    return load_file(folder / "model.safetensors")["numbers"].numpy()


def register(registry, folder, numbers, kind="item_embeddings", scope="Clothing", **tags):
    """Register a 'model' without promoting it."""
    with registry.run(kind, scope, tags=TAGS | tags, params={}) as run:
        return run.register(save_numbers(folder, numbers), **tags)


@contextmanager
def failing(registry, table, when="1"):
    """Let the store's database refuse every write to a table, as a full or lost disk would, until the end."""
    path = registry.tracking_uri.removeprefix("sqlite:///")
    with sqlite3.connect(path) as database:
        for event in ("INSERT", "UPDATE"):
            database.execute(
                f"CREATE TRIGGER broken_{event} BEFORE {event} ON {table} WHEN {when} "
                "BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
            )
    try:
        yield
    finally:
        with sqlite3.connect(path) as database:
            for event in ("INSERT", "UPDATE"):
                database.execute(f"DROP TRIGGER broken_{event}")
