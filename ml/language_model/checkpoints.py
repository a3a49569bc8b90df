"""Which of a phase's checkpoints are complete: only those with a marker, written after everything else is on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from ml.files import read_json, sync_tree, write_json

_MARKER = "complete.json"


def mark_complete(checkpoint: Path, seconds: float) -> None:
    """Force a finished checkpoint to disk, then mark it; `seconds` is the training time it stands for."""
    sync_tree(checkpoint)
    write_json(checkpoint / _MARKER, {"seconds": seconds})


def newest_complete(folder: Path) -> Path | None:
    """The newest complete checkpoint below `folder`, if any."""
    complete = [c for c in folder.glob("checkpoint-*") if (c / _MARKER).is_file()]
    return max(complete, key=_step, default=None)


def keep_newest(folder: Path) -> None:
    """Delete every checkpoint below `folder` except the newest complete one, half-written ones too."""
    newest = newest_complete(folder)
    for checkpoint in folder.glob("checkpoint-*"):
        if checkpoint != newest:
            _delete(checkpoint)


def delete_all(folder: Path) -> None:
    """Delete every checkpoint below `folder`: its phase is done."""
    for checkpoint in folder.glob("checkpoint-*"):
        _delete(checkpoint)


def _delete(checkpoint: Path) -> None:
    # The marker first, so that a kill half-way leaves no checkpoint that seems complete.
    (checkpoint / _MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def seconds_trained(checkpoint: Path) -> float:
    """The training time that a complete checkpoint stands for."""
    return float(read_json(checkpoint / _MARKER)["seconds"])


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
