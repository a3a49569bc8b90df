"""Which versions were in use, and the way back: rollback, what was rolled back, and the index of a model version.

A promoted version's tags name the version it replaced, so the history is a chain that begins at the alias `champion`.
An index holds vectors of one version of its model and is nothing without it: it is looked up by that version, and its
own alias only follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from ml.errors import BadInputError, HemlineError
from ml.models.registry import CHAMPION, NOTHING, PROMOTED_OVER, ROLLED_BACK, ModelRegistry, now
from ml.models.version import ModelVersion, registered_name

KINDS = ("adapter", "title_encoder", "item_embeddings", "ranker")
"""Kinds of models that are promoted and rolled back by themselves."""
INDEX_OF = {"title_index": "title_encoder", "id_index": "item_embeddings"}
"""Kinds of indexes, and the kind of model whose vectors each holds."""


RETRAIN_BY = "retrain_by"
"""Tag of a version that was fitted on customers who are forgotten: the last day on which it may be in use."""
LAST_CHANCE_DAYS = 7
"""So long before that day a worse model may replace it: models are fitted once a week."""


def must_go(model: ModelVersion) -> str | None:
    """Return why a version is to be replaced by whatever can serve; None where it may stay."""
    until = model.tags.get(RETRAIN_BY)
    if until is None or date.today() < date.fromisoformat(until) - timedelta(days=LAST_CHANCE_DAYS):
        return None
    return f"it was fitted on customers who are forgotten, and may be in use until {until} only"


@dataclass(frozen=True)
class Rollback:
    """A version that is in use no longer, and the one that is again."""

    kind: str
    scope: str
    before: str
    after: str


def rollback_target(registry: ModelRegistry, kind: str, scope: str) -> tuple[str, ModelVersion]:
    """Return the number of the version in use and the version before it; those that were rolled back are passed over.

    Raises BadInputError for a kind that cannot be rolled back, or where no earlier version is recorded; HemlineError
    where the earlier version's files are gone.
    """
    if kind in INDEX_OF:
        raise BadInputError(f"{kind} follows {INDEX_OF[kind]}: roll that back")
    if kind not in KINDS:
        raise BadInputError(f"model {kind!r}: expected one of {list(KINDS)}")
    champion = registry.used_version(kind, scope)
    if champion is None:
        raise BadInputError(f"no {kind} is in use for {scope!r}: nothing to roll back (`hemline train` makes one)")
    tags = {str(found.version): dict(found.tags) for found in registry.versions(kind, scope)}
    earlier = next(earlier_champions(tags, champion), None)
    if earlier is None:
        raise BadInputError(
            f"{kind} {champion} for {scope!r}: no version that was in use before it is recorded, so there "
            "is none to go back to"
        )
    return champion, registry.version(kind, scope, earlier)


def earlier_champions(tags: Mapping[str, Mapping[str, str]], champion: str) -> Iterator[str]:
    """Yield the versions that were in use before `champion`, newest first, without those that were rolled back.

    `tags` are the tags of every version.
    """
    version = champion
    while (version := tags.get(version, {}).get(PROMOTED_OVER, NOTHING)) != NOTHING:
        if ROLLED_BACK not in tags.get(version, {}):
            yield version


def rollback(registry: ModelRegistry, kind: str, scope: str) -> Rollback:
    """Put the version into use that was in use before the champion, and the index made of it; raises as above.

    The version left gets the tags `rolled_back_at` and `rolled_back_to` and is never promoted again. The alias moves
    last: a rollback that failed on the way can be repeated.
    """
    champion, earlier = rollback_target(registry, kind, scope)
    registry.tag(kind, scope, champion, rolled_back_to=earlier.version, **{ROLLED_BACK: now()})
    registry.client.set_registered_model_alias(registered_name(kind, scope), CHAMPION, earlier.version)
    for index, model in INDEX_OF.items():
        if model == kind:
            _follow(registry, index, earlier)
    return Rollback(kind, scope, champion, earlier.version)


def rolled_back_versions(registry: ModelRegistry, kind: str, scope: str) -> dict[str, str | None]:
    """Return the versions that were rolled back, and the hash of their files where it is known."""
    return {
        str(found.version): found.tags.get("content")
        for found in registry.versions(kind, scope)
        if ROLLED_BACK in found.tags
    }


def index_of(registry: ModelRegistry, index: str, model: ModelVersion) -> ModelVersion | None:
    """Return the newest index made of exactly this version of its model; None where there is none.

    Only one that passed its guardrails counts, or is in use: another may be what a run that died left behind.
    """
    used = registry.used_version(index, model.scope)
    for found in registry.versions(index, model.scope):
        passed = PROMOTED_OVER in found.tags or found.tags.get("promotion") in ("promoted", "unchanged")
        own = found.tags.get(made_of(index)) == model.version
        if own and (passed or str(found.version) == used):
            return registry.version(index, model.scope, str(found.version))
    return None


def made_of(index: str) -> str:
    """Return the name of the tag that says which version of its model an index was made of."""
    return f"{INDEX_OF[index]}_version"


def promote_index(registry: ModelRegistry, index: ModelVersion) -> str:
    """Promote an index if the model it was made of is the one in use; return what was done, as a reason.

    Raises HemlineError where another version of the model came into use meanwhile.
    """
    model = INDEX_OF[index.kind]
    used = registry.used_version(model, index.scope)
    own = index.tags.get(made_of(index.kind))
    if used != own:
        raise HemlineError(
            f"{index.kind} {index.version} for {index.scope!r} was made of {model} {own}, and in use is "
            f"{used or 'none'}: materialise {index.kind} again"
        )
    registry.promote(index)
    return f"follows {model} {own}"


def _follow(registry: ModelRegistry, index: str, model: ModelVersion) -> None:
    """Let an index's alias name the index of `model`, or nothing where there is none."""
    name = registered_name(index, model.scope)
    found = index_of(registry, index, model)
    if found is not None:
        registry.client.set_registered_model_alias(name, CHAMPION, found.version)
    elif registry.versions(index, model.scope):
        registry.client.delete_registered_model_alias(name, CHAMPION)


def require_champion(registry: ModelRegistry, kind: str, scope: str) -> ModelVersion:
    """Return the promoted version; raises HemlineError with what to do if there is none."""
    champion = registry.champion(kind, scope)
    if champion is None:
        raise HemlineError(f"no {kind} is promoted for {scope!r}: run `hemline train` first")
    return champion
