"""What made a customer's list of one day: the events, the memory, the answer and the models, from what is recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from ml.errors import BadInputError
from ml.night.generating import current_query
from ml.night.serving import VERSION_COLUMNS
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.models.registry import ModelRegistry

NEWEST_DAYS = 3


@dataclass(frozen=True)
class ModelLine:
    """A model version behind a list; `tags` are those of its registered version, None where it is registered no more.

    `used` is the version in use now.
    """

    kind: str
    scope: str
    version: str
    used: str | None
    run_id: str | None
    tags: Mapping[str, str] | None


@dataclass(frozen=True)
class ListLineage:
    """One category's list of a customer, and what it was made of.

    `parts` counts its items by what gave them. `steps` and `item_steps` count the steps that were known at the end of
    `listed_on`, `newest_days` are the newest days they lie on, `query` their newest search. `answer` is the language
    model's row of `generations` of that day, None where it was not asked.
    """

    category: str
    scope: str
    day: str
    listed_on: str
    source: str
    parts: Mapping[str, int]
    steps: int
    item_steps: int
    newest_days: Sequence[str]
    query: str | None
    answer: Mapping[str, Any] | None
    models: Sequence[ModelLine]


def lineage(
    settings: Settings,
    warehouse: Warehouse,
    registry: ModelRegistry,
    scopes: Mapping[str, str],
    user: str,
    day: str,
) -> list[ListLineage]:
    """Return what made `user`'s lists of `day`, one for each category of `scopes` that lists the customer.

    `scopes` says which model partition serves a category. Raises BadInputError where nothing is published for the day,
    or the customer is in none of its lists.
    """
    days = warehouse.days("recommendations")
    if day not in days:
        known = f"there are {days[0]} … {days[-1]}" if days else "run `hemline nightly` first"
        raise BadInputError(f"{day}: no recommendations are published for this day; {known}")
    found = []
    for category, scope in scopes.items():
        rows = _of_user(warehouse, "recommendations", user, date=day, category=category)
        if rows:
            found.append(_list_lineage(settings, warehouse, registry, category, scope, user, day, rows))
    if not found:
        raise BadInputError(
            f"customer {user!r}: in no list of {day} ({', '.join(scopes)}); lists are made for customers with an event "
            f"in the {settings.recommendations.active_days} days up to it"
        )
    return found


def _list_lineage(
    settings: Settings,
    warehouse: Warehouse,
    registry: ModelRegistry,
    category: str,
    scope: str,
    user: str,
    day: str,
    rows: list[dict[str, Any]],
) -> ListLineage:
    listed_on = rows[0]["listed_on"]
    own = [h for h in _of_user(warehouse, "user_histories", user, date=listed_on) if h["category"] == category]
    steps = own[0]["steps"] if own else []
    days = sorted({s["event_time"].astimezone(settings.log.zone).date().isoformat() for s in steps}, reverse=True)
    answers = _of_user(warehouse, "generations", user, date=listed_on, category=category)
    return ListLineage(
        category,
        scope,
        day,
        listed_on,
        rows[0]["source"],
        Counter(row["part"] for row in rows),
        len(steps),
        own[0]["item_steps"] if own else 0,
        days[:NEWEST_DAYS],
        current_query(steps),
        answers[0] if answers else None,
        _models(registry, scope, rows[0]),
    )


def _models(registry: ModelRegistry, scope: str, row: Mapping[str, Any]) -> list[ModelLine]:
    lines = []
    for kind, column in VERSION_COLUMNS.items():
        if row[column] is None:
            continue
        registered = {str(found.version): found for found in registry.versions(kind, scope)}
        found = registered.get(row[column])
        used = registry.used_version(kind, scope)
        run_id, tags = (None, None) if found is None else (found.run_id, dict(found.tags))
        lines.append(ModelLine(kind, scope, row[column], used, run_id, tags))
    return lines


def _of_user(warehouse: Warehouse, table: str, user: str, **levels: str) -> list[dict[str, Any]]:
    """Return a customer's rows of one partition; none where there is no such partition."""
    if not warehouse.exists(table, **levels):
        return []
    return warehouse.read(table, None, pc.field("user_id") == user, **levels).to_pylist()
