"""Which models in use were fitted on customers who are forgotten, and until when they must be replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from ml.models.champions import KINDS, RETRAIN_BY
from ml.models.registry import ModelRegistry
from ml.people.traces import Traces
from ml.warehouse import Warehouse


@dataclass(frozen=True)
class FittedOn:
    """A version in use whose training data held a customer, and the day until which it must be replaced."""

    kind: str
    scope: str
    version: str
    retrain_by: str

    def plain(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return asdict(self)


def models_fitted_on(
    warehouse: Warehouse,
    registry: ModelRegistry,
    scopes: Mapping[str, Sequence[str]],
    traces: Traces,
    retrain_days: int,
) -> list[FittedOn]:
    """Return the champions whose training data held one of the customers, and tag them with the deadline.

    Other versions that held them are tagged as well: a rollback may bring one back into use.

    `scopes`: the categories that each model partition is fitted on. A model is named where they have a purchase in one
    of these categories up to the newest day it was fitted on, also where a sample may have left them out. A deadline
    that stands already is kept.
    """
    bought = {(category, day.isoformat()) for category, day in traces.purchases}
    paired = _days_of_pairs(warehouse, traces)
    found = []
    for scope, categories in scopes.items():
        for kind in KINDS:
            days = {day for category, day in (paired if kind == "title_encoder" else bought) if category in categories}
            used = registry.used_version(kind, scope) if days else None
            for one in registry.versions(kind, scope) if days else ():
                if min(days) > (one.tags.get("fitted_until") or "9999-12-31"):
                    continue
                deadline = (datetime.now(UTC).date() + timedelta(days=retrain_days)).isoformat()
                deadline = min(deadline, one.tags.get(RETRAIN_BY, deadline))
                registry.tag(kind, scope, str(one.version), **{RETRAIN_BY: deadline})
                if str(one.version) == used:
                    found.append(FittedOn(kind, scope, str(one.version), deadline))
    return found


def models_due(registry: ModelRegistry, scopes: Sequence[str]) -> list[FittedOn]:
    """Return the champions that were fitted on customers who are forgotten, with their deadline."""
    found = []
    for scope in scopes:
        for kind in KINDS:
            version = registry.used_version(kind, scope)
            tags = {} if version is None else registry.tags_of(kind, scope, version)
            if version is not None and RETRAIN_BY in tags:
                found.append(FittedOn(kind, scope, version, tags[RETRAIN_BY]))
    return found


def _days_of_pairs(warehouse: Warehouse, traces: Traces) -> set[tuple[str, str]]:
    """Return category and day of the customers' query-title pairs, which title encoders are fitted on."""
    found = set()
    for levels in warehouse.partitions("query_title_pairs"):
        rows = warehouse.read("query_title_pairs", ["event_id", "date"], **levels).to_pylist()
        found |= {(levels["category"], row["date"].isoformat()) for row in rows if row["event_id"] in traces.events}
    return found
