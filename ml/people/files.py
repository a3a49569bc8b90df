"""Customers taken out of what lies beside the tables: work kept between tries, the report, logs."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from ml.errors import BadInputError
from ml.files import write_file
from ml.people.scrub import Scrub
from ml.people.tracking import clean_file
from ml.settings import POOLED, Settings
from ml.warehouse import Warehouse

_BY_SCOPE = ("adapter", "title_encoder", "title_index", "item_embeddings", "id_index", "ranker")
_BY_CATEGORY = ("evaluation", "generations")
_LOGS = {".out", ".err", ".log", ".txt"}


def remove_work(settings: Settings, categories: Collection[str], scopes: Collection[str]) -> int:
    """Delete the work kept between tries that was made from the customers' events; return how many folders.

    Checkpoints, finished answers and finished results: a run that needs them makes them again, without the customers.
    """
    work = settings.work_folder
    folders = [work / kind / scope for kind in _BY_SCOPE for scope in scopes]
    folders += [work / kind / category for kind in _BY_CATEGORY for category in categories]
    folders += [work / "experiments"] if categories else []
    found = [folder for folder in folders if folder.is_dir() and folder.resolve().is_relative_to(work.resolve())]
    for folder in found:
        shutil.rmtree(folder)
    return len(found)


def all_scopes(settings: Settings) -> list[str]:
    """Return every model partition there may be."""
    return [*settings.categories, POOLED]


def rewrite_report(settings: Settings, warehouse: Warehouse) -> int:
    """Write the report's page anew from the tables, which show customers no more; return how many pages there were."""
    page = settings.report / "index.html"
    if not page.exists():
        return 0
    from ml.report import write_report

    try:
        write_report(settings, warehouse, settings.report)
    except BadInputError:  # the tables it was made from are gone
        page.unlink()
    return 1


def scrub_logs(folder: Path, scrub: Scrub) -> int:
    """Take customers out of the log files below `folder`; return how many were changed."""
    changed = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix in _LOGS and path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            clean = clean_file(".log", content, scrub)
            if clean != content:
                write_file(path, lambda target, clean=clean: target.write_bytes(clean))
                changed += 1
    return changed
