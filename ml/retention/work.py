"""Which work files may go: checkpoints, answers and finished comparisons that nobody came back to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ml.retention.removal import Removal, size_of
from ml.settings import Settings

FITS = ("adapter", "title_encoder", "title_index", "item_embeddings", "id_index", "ranker")
"""Work that is one piece per model partition: half a checkpoint is none. All other work files stand for themselves."""


def forgotten_work(settings: Settings, now: float) -> list[Removal]:
    """Return the work that was not touched for `retention.work_days` days before `now` (seconds since 1970)."""
    days, found = settings.retention.work_days, []
    for path in _pieces(settings.work_folder):
        files = [path, *path.rglob("*")] if path.is_dir() else [path]
        if max(file.stat().st_mtime for file in files) < now - days * 86_400:
            what = str(path.relative_to(settings.work_folder))
            why = f"not touched for {days} days (retention.work_days)"
            found.append(Removal("work", what, why, size_of(path), partial(_delete, path)))
    return found


def _pieces(work: Path) -> Iterator[Path]:
    for stage in sorted(work.iterdir()) if work.is_dir() else []:
        if stage.name in FITS:
            yield from sorted(stage.iterdir())
        else:
            yield from sorted(path for path in stage.rglob("*") if path.is_file())


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
