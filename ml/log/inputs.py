"""What a day's `interactions` are made from, as a hash: the same again need not be made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from ml.code import code_fingerprint
from ml.log.arrivals import raw_states
from ml.log.files import list_files
from ml.log.raw import partition_window
from ml.people.suppression import suppression_of
from ml.settings import Settings
from ml.warehouse import Warehouse


def inputs_of_days(settings: Settings, warehouse: Warehouse, days: Sequence[str]) -> dict[str, str]:
    """Return, by day, a hash of all that it is made from: raw files, catalogue, settings, code and who is forgotten.

    No file is opened: one that was written again is told by its size and times.
    """
    states = raw_states(settings.raw_log, partition_window(days, settings.log.late_days))
    common = [
        code_fingerprint(),
        settings.log.model_dump(mode="json", exclude={"chunk_days"}),
        settings.sequences.session_gap_minutes,
        settings.catalog_columns.model_dump(mode="json"),
        settings.categories,
        _listing(settings.catalog),
        warehouse.content("catalog"),
        sorted(suppression_of(settings).hashes),
    ]
    shared = hashlib.blake2b(json.dumps(common).encode(), digest_size=12).hexdigest()
    made_from = {}
    for day in days:
        own = [(p, astuple(states[p])) for p in partition_window([day], settings.log.late_days) if p in states]
        made_from[day] = hashlib.blake2b(json.dumps([shared, own]).encode(), digest_size=12).hexdigest()
    return made_from


def _listing(catalog: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of each file of the listing; a listing that is not there has none."""
    files = list_files(catalog) if catalog.is_dir() else [catalog] if catalog.exists() else []
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
