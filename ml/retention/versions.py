"""Which registered versions' files may go: those that no table that stays, no rollback and no running fit needs.

The version stays registered, with its tags: what it was, why it was refused, that it was rolled back. Its files go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from ml.models.champions import INDEX_OF, earlier_champions, made_of
from ml.night.serving import VERSION_COLUMNS
from ml.retention.removal import Removal
from ml.settings import POOLED, RetentionSettings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

    from ml.models.registry import ModelRegistry

Versions = Mapping[tuple[str, str], set[str]]
"""Numbers of versions by kind and model partition."""


@dataclass(frozen=True)
class References:
    """What published lists refer to: model versions, and the days on which they were made."""

    versions: Versions
    listed_on: set[str]


def references(warehouse: Warehouse, days: Sequence[str]) -> References:
    """Return what the lists of `days` refer to.

    A row names a version's number alone. Its category may have moved between its own models and the pooled ones, so
    that the number counts for both.
    """
    versions: dict[tuple[str, str], set[str]] = defaultdict(set)
    listed_on: set[str] = set()
    for day in days:
        for category in warehouse.level_values("recommendations", "category", date=day):
            columns = [*VERSION_COLUMNS.values(), "listed_on"]
            rows = warehouse.read("recommendations", columns, date=day, category=category)
            answers = warehouse.read("generations", ["model_version"], date=day, category=category)
            listed_on |= set(rows["listed_on"].unique().to_pylist())
            for kind, column in VERSION_COLUMNS.items():
                named = set(rows[column].unique().to_pylist())
                named |= set(answers["model_version"].unique().to_pylist()) if kind == "adapter" else set()
                for scope in (category, POOLED):
                    versions[kind, scope] |= named - {None}
    return References(versions, listed_on)


def unneeded_versions(
    registry: ModelRegistry, settings: RetentionSettings, named: Versions, now: float
) -> list[Removal]:
    """Return the versions whose files may go at `now` (seconds since 1970); `named` are those that tables refer to."""
    found = []
    kept: dict[tuple[str, str], set[str]] = {}
    # Indexes last: one stays as long as the version of the model it was made of.
    for kind, scope in sorted(registry.models(), key=lambda model: model[0] in INDEX_OF):
        versions = registry.versions(kind, scope)
        needed = _needed(registry, settings, kind, scope, versions, now) | named.get((kind, scope), set())
        if kind in INDEX_OF:
            models = kept.get((INDEX_OF[kind], scope), set())
            needed |= {str(v.version) for v in versions if v.tags.get(made_of(kind)) in models}
        kept[kind, scope] = needed
        for version in versions:
            if str(version.version) not in needed and registry.has_files(version):
                what = f"{kind} {version.version} of {scope!r}"
                why = f"in no list that is kept, not among the last {settings.champions} in use"
                remove = partial(registry.remove_files, version)
                found.append(Removal("model files", what, why, registry.files_size(version), remove))
    return found


def _needed(
    registry: ModelRegistry,
    settings: RetentionSettings,
    kind: str,
    scope: str,
    versions: Sequence[MlflowVersion],
    now: float,
) -> set[str]:
    """Return the versions that stay whatever tables say: in use now or before, the newest, and all young ones."""
    youngest = now - settings.version_days * 86_400
    needed = {str(v.version) for v in versions if v.creation_timestamp / 1000 >= youngest}
    needed |= {str(v.version) for v in versions[:1]}
    used = registry.used_version(kind, scope)
    if used is not None:
        tags = {str(v.version): dict(v.tags) for v in versions}
        needed |= {used, *islice(earlier_champions(tags, used), settings.champions - 1)}
    return needed
