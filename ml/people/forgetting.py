"""Forgetting customers, from the suppression list to the audit record.

Everything is repeatable: a call that was killed is called again with the same customers and does the rest. What
customers are known by is read from `interactions` and its like, so those are cleaned last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from ml.errors import BadInputError
from ml.files import fsync_path
from ml.people.files import remove_work, rewrite_report
from ml.people.models import FittedOn, models_fitted_on
from ml.people.scrub import Scrub
from ml.people.suppression import FOLDER, add, key_of
from ml.people.tables import remove_from_tables
from ml.people.traces import Traces, find_traces
from ml.people.tracking import remove_from_runs
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.models.registry import ModelRegistry
    from ml.spark import SparkSource

AUDIT = "audit.jsonl"


@dataclass(frozen=True)
class Forgotten:
    """What was done: the customers' hashes, what was taken out of each place, the models to replace, the raw days."""

    customers: Sequence[str]
    removed: Mapping[str, int]
    models: Sequence[FittedOn]
    raw_days: Sequence[str]


def forget(
    settings: Settings,
    warehouse: Warehouse,
    registry: ModelRegistry,
    spark: SparkSource,
    users: Sequence[str],
    scopes: Mapping[str, Sequence[str]],
    records: Callable[[Scrub], Mapping[str, int]],
    on_wait: Callable[[], None] = lambda: None,
) -> Forgotten:
    """Put `users` on the suppression list, then take them out of everything that was made of their events.

    `scopes` are the categories that each model partition is fitted on; `records` takes customers out of the
    orchestrator's records. Waits for all steps that write to the warehouse, and keeps others from beginning. Customers
    that are nowhere are suppressed all the same. Raises BadInputError for no or an empty id, before anything is done.
    """
    if not users or not all(user.strip() for user in users):
        raise BadInputError("forget: expected the ids of customers, none of them empty")
    suppression = add(settings.home, key_of(settings), users)
    customers = sorted({suppression.hash(user) for user in users})
    with warehouse.no_steps(on_wait):
        traces = find_traces(warehouse, users)
        models = models_fitted_on(warehouse, registry, scopes, traces, settings.privacy.retrain_days)
        models = _with_earlier(settings.home, customers, models)
        _record(settings.home, {"event": "begun", "customers": customers, "models": [m.plain() for m in models]})
        removed = {
            **remove_from_runs(registry, traces.scrub, _titles(warehouse, traces)),
            **_counted("work folders", _remove_work(settings, scopes, traces)),
            **records(traces.scrub),
            **remove_from_tables(warehouse, traces, suppression, settings.memory, spark),
            **_counted("report", rewrite_report(settings, warehouse)),
        }
        warehouse.clear()
        named = [model.plain() for model in models]
        _record(settings.home, {"event": "done", "customers": customers, "removed": removed, "models": named})
    return Forgotten(customers, removed, models, sorted(traces.days))


def _remove_work(settings: Settings, scopes: Mapping[str, Sequence[str]], traces: Traces) -> int:
    own = [scope for scope, categories in scopes.items() if traces.categories & set(categories)]
    return remove_work(settings, sorted(traces.categories), own)


def _titles(warehouse: Warehouse, traces: Traces) -> set[str]:
    bought = pc.field("item_id").isin(pa.array(sorted(traces.bought), pa.string()))
    return set(warehouse.dataset("catalog").to_table(columns=["title"], filter=bought)["title"].to_pylist())


def _counted(place: str, count: int) -> dict[str, int]:
    return {place: count} if count else {}


def audit_records(home: Path) -> list[dict[str, Any]]:
    """Return the audit records, oldest first; a line that a kill cut short is none."""
    path = home / FOLDER / AUDIT
    records = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def _record(home: Path, values: Mapping[str, Any]) -> None:
    """Append an audit record: no id is in it, only keyed hashes."""
    path = home / FOLDER / AUDIT
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **values})
    with FileLock(home / FOLDER / ".lock"), path.open("a", encoding="utf-8") as file:
        path.chmod(0o600)
        file.write(("" if _ends_whole(path) else "\n") + line + "\n")
        file.flush()
        fsync_path(path)


def _ends_whole(path: Path) -> bool:
    content = path.read_bytes()
    return not content or content.endswith(b"\n")


def _with_earlier(home: Path, customers: Sequence[str], models: Sequence[FittedOn]) -> list[FittedOn]:
    """Add the models that earlier calls for these customers named: one that was killed may have removed the proof."""
    found = {(model.kind, model.scope, model.version): model for model in models}
    for record in audit_records(home):
        if set(record["customers"]) & set(customers):
            for values in record["models"]:
                model = FittedOn(**values)
                found.setdefault((model.kind, model.scope, model.version), model)
    return list(found.values())
