"""The promotion gate: guardrails, the comparison with the champion, the record of both, and the alias.

A challenger is registered before it is judged, and judged from the files that would serve. Whatever fails here, the
alias still names the champion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from ml.errors import HemlineError
from ml.models.champions import INDEX_OF, made_of, must_go, promote_index, rolled_back_versions
from ml.models.files import check_finite_weights, content_hash
from ml.models.promotion import Decision, decide, refused
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.models.registry import ModelRegistry
    from ml.models.run import TrackedRun
    from ml.models.version import ModelVersion

Model = TypeVar("Model")


@dataclass(frozen=True)
class Trial(Generic[Model]):
    """How models of one kind are put to the test.

    `score` returns float [n], higher is better, of the same n validation examples for every model; `probe` a few
    scores that only have to be finite (None: those of `score`). `own` are the challenger's scores where its files have
    seen the examples. `incomparable` says why a champion cannot be scored on them, None where it can.
    """

    metric: str
    margin: float
    load: Callable[[Path], Model]
    score: Callable[[Model], np.ndarray]
    probe: Callable[[Model], np.ndarray] | None = None
    own: np.ndarray | None = None
    incomparable: Callable[[ModelVersion], str | None] = field(default=lambda _: None)


def consider(
    registry: ModelRegistry, run: TrackedRun, challenger: ModelVersion, trial: Trial[Model], settings: Settings
) -> Decision:
    """Decide whether `challenger` replaces the champion of its kind and scope, keep the reason, move the alias if so.

    Verdict, reason and numbers become tags of the version, tags and metrics of the run. Raises HemlineError, with all
    that kept, where the challenger broke a guardrail: it cannot serve, and somebody has to look; and where another
    version came into use while they were compared.
    """
    kind, scope = challenger.kind, challenger.scope
    used = registry.used_version(kind, scope)

    def promote(version: ModelVersion) -> None:
        if (meanwhile := registry.used_version(kind, scope)) != used:
            raise HemlineError(
                f"{kind} {version.version} for {scope!r} was judged beside version {used or 'none'}, and version "
                f"{meanwhile or 'none'} came into use meanwhile: fit again"
            )
        registry.promote(version)

    return _settle(registry, run, challenger, _judged(registry, challenger, used, trial, settings), promote)


def follow(registry: ModelRegistry, run: TrackedRun, index: ModelVersion, load: Callable[[Path], object]) -> Decision:
    """Promote an index with the version of its model that is in use, as `consider` does; there is nothing to compare.

    Raises HemlineError where it does not load, or where another version of its model came into use meanwhile.
    """
    decision = _broken(index, lambda: load(index.folder))
    if decision is None:
        model = INDEX_OF[index.kind]
        decision = Decision("promoted", f"follows {model} {index.tags.get(f'{model}_version')}")
        if registry.used_version(index.kind, index.scope) is not None:
            decision = _unchanged(index, registry.champion(index.kind, index.scope)) or decision
    return _settle(registry, run, index, decision, lambda version: promote_index(registry, version))


def _settle(
    registry: ModelRegistry,
    run: TrackedRun,
    challenger: ModelVersion,
    decision: Decision,
    promote: Callable[[ModelVersion], object],
) -> Decision:
    kept = {"promotion": decision.verdict, "promotion_reason": decision.reason[:5000]}
    run.metrics(decision.numbers())
    run.flush()
    run.tags(kept)
    registry.tag(challenger.kind, challenger.scope, challenger.version, **kept)
    if decision.guardrail:
        used = registry.used_version(challenger.kind, challenger.scope)
        raise HemlineError(
            f"{challenger.kind} {challenger.version} for {challenger.scope!r} is refused, {decision.reason}. "
            + (f"Version {used} stays in use" if used else "No version is in use yet")
        )
    if decision.promoted:
        promote(challenger)
    return decision


def _judged(
    registry: ModelRegistry, challenger: ModelVersion, used: str | None, trial: Trial[Model], settings: Settings
) -> Decision:
    """Return the decision on a challenger: guardrails first, then what makes a comparison idle, then the comparison."""
    kind, scope = challenger.kind, challenger.scope
    champion, reason = None, "no champion"
    if used is not None:
        try:
            champion = registry.version(kind, scope, used)
        except HemlineError as error:
            reason = f"not compared, the champion's files cannot be had ({error})"
    if champion is not None:
        why = trial.incomparable(champion) or must_go(champion)
        why = why if why or settings.promotion.enabled else "setting promotion.enabled is off"
        reason = f"not compared with version {champion.version}: {why}; its files load and its scores are finite"
        champion = None if why else champion
    scores: list[np.ndarray] = []
    probe = trial.probe if champion is None and trial.probe is not None else trial.score
    broken = _broken(challenger, lambda: scores.append(probe(trial.load(challenger.folder))))
    if broken is not None:
        return broken
    own = scores[0] if trial.own is None or not np.isfinite(scores[0]).all() else trial.own
    for version, content in rolled_back_versions(registry, kind, scope).items():
        if content is not None and content == challenger.tags.get("content"):
            return Decision("refused", f"the same files as version {version}, which was rolled back")
    theirs = None
    if champion is not None:
        try:
            theirs = _champion_scores(champion, trial)
        except HemlineError as error:
            reason = f"not compared, version {champion.version} can serve no more ({error})"
        unchanged = None if theirs is None else _unchanged(challenger, champion)
        if unchanged is not None and np.isfinite(own).all():
            return unchanged
    decision = decide(
        own, theirs, metric=trial.metric, margin=trial.margin, promotion=settings.promotion,
        evaluation=settings.evaluation, without_champion=reason,
    )  # fmt: skip
    return _with_note(decision, challenger, champion)


def _champion_scores(champion: ModelVersion, trial: Trial[Model]) -> np.ndarray:
    """Return the champion's scores; raises HemlineError where it is the champion that is broken.

    Any other error (no memory left, say) is none of the champion's, and replaces it by nothing.
    """
    if champion.tags.get("content") not in (None, content_hash(champion.folder)):
        raise HemlineError(f"{champion.folder} does not hold the files that were registered")
    check_finite_weights(champion.folder)
    return trial.score(trial.load(champion.folder))


def _broken(challenger: ModelVersion, try_it: Callable[[], object]) -> Decision | None:
    """Return the refusal by the first guardrail that the challenger's files break; None where all hold."""
    if content_hash(challenger.folder) != challenger.tags.get("content"):
        return refused("its files are whole", f"{challenger.folder} does not hold the files that were registered")
    try:
        check_finite_weights(challenger.folder)
    except HemlineError as error:
        return refused("its weights are whole and finite", str(error))
    try:
        try_it()
    except Exception as error:  # whatever a library raises at files it cannot read
        return refused("its files load and can be scored", f"{type(error).__name__}: {error}")
    return None


def _unchanged(challenger: ModelVersion, champion: ModelVersion | None) -> Decision | None:
    """Return the decision that leaves a champion of the same files in use: tables keep naming one version of them."""
    if champion is None or champion.tags.get("content") != challenger.tags.get("content"):
        return None
    if champion.kind in INDEX_OF:
        tag = made_of(champion.kind)
        if champion.tags.get(tag) != challenger.tags.get(tag):
            return None
    return Decision("unchanged", f"the same files as version {champion.version}, which is in use")


def _with_note(decision: Decision, challenger: ModelVersion, champion: ModelVersion | None) -> Decision:
    """Say where the comparison favours the champion: it may have learnt from the examples."""
    ends = (champion.fitted_until if champion else None) or "", challenger.fitted_until or ""
    if decision.difference is None or ends[0] <= ends[1]:
        return decision
    note = f"; the champion was fitted on days up to {ends[0]} and may have seen these examples"
    return replace(decision, reason=decision.reason + note)
