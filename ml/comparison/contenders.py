"""Every system on one view: fitted on its training part, choosing by its validation part, ranking its test rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ml.comparison.mixup_ranking import MixupRanking
from ml.comparison.views import View
from ml.errors import BadInputError
from ml.evaluation import ItemExamples, System, best_items, compare, item_examples, rank_targets, references
from ml.fits.answers import answer_examples
from ml.fits.counting import Counted
from ml.fits.fitting import TitleVectors, fit_title_encoder, load_title_vectors
from ml.fits.fusing import build_sources, encoded_titles, examples_asked, fit_next_item, questions
from ml.measure import Cost, timed
from ml.ranking import Demand

if TYPE_CHECKING:
    from ml.generation import Generated
    from ml.models.registry import ModelRegistry
    from ml.models.run import TrackedRun
    from ml.ranking import Sources
    from ml.ranking.ranker import Ranker
    from ml.ranking.stacking import Questions

OURS_READS = ("markov", "item_knn", "core")
"""The references whose fitted systems are sources of ours."""


@dataclass(frozen=True)
class Ranked:
    """What one system made of a view: the test targets' ranks by kind of candidates, some lists, and the cost.

    `ranks` are float64 [test rows], NaN where the target never ranks; `lists` are by example_id, best item first.
    """

    system: str
    ranks: Mapping[str, np.ndarray]
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fit_seconds: float = 0.0
    rank_seconds: float = 0.0
    peak_memory_mib: int = 0


def rank_reference(view: View, name: str, fitted: dict[str, Any]) -> Ranked:
    """Fit and rank popularity, Markov, item-kNN or CORE; the fitted system stays in `fitted`, for ours."""
    with timed() as fit:
        fitted |= fit_references(view, [name])
    return _rank(view, fitted[name], view.test_items, fit.seconds, fit.peak_mib)


def fit_references(view: View, names: Collection[str]) -> dict[str, System]:
    """Return these references by name, fitted on the view."""
    every = {system.name: system for system in references(view.data.settings.item_embeddings)}
    fitted = {name: every[name] for name in names}
    for system in fitted.values():
        system.fit(view.train_items, view.validation_items)
    return fitted


def rank_further(view: View, name: str, run: TrackedRun) -> Ranked:
    """Fit and rank one of `evaluation.more_systems`."""
    from ml.baselines import NAMES, baseline

    evaluation = view.data.settings.evaluation
    if name in NAMES:
        with timed() as fit:
            system = baseline(name, evaluation.baselines)
            system.fit(view.train_items, view.validation_items)
        return _rank(view, system, view.test_items, fit.seconds, fit.peak_mib)
    from ml.baselines.recformer import Recformer, RowSystem

    with timed() as fit:
        recformer = Recformer(evaluation.recformer, view.data.catalog, name == "recformer_queries", run)
        recformer.fit_examples(view.examples, view.parts, view.validation.filter(pc.field("eligible")))
    rows = RowSystem(recformer, view.test)
    return _rank(view, rows, rows.examples, fit.seconds, fit.peak_mib)


def _rank(view: View, system: System, shown: ItemExamples, fit_seconds: float, fit_mib: int) -> Ranked:
    with timed() as cost:
        ranks = {
            name: rank_targets(system, shown, view.data.items, available)
            for name, available in view.data.candidates()
        }  # fmt: skip
    places = [place for place, example in enumerate(shown.example_ids) if example in view.read_by_people]
    lists = best_items(system, shown, places, view.data.items, view.data.settings.evaluation.k)
    return Ranked(system.name, ranks, lists, fit_seconds, cost.seconds, max(fit_mib, cost.peak_mib))


class Ours:
    """Our system on one view: the language model's answers, then the paper's mixup, and fusion where it is the setting.

    Every other part is fitted on the view's own training part. The one exception is the adapter: it was fitted on
    rows that both splits train on, and is the same everywhere. On purchases only the memory's text encoder stands in
    for the title encoder, which learns from searches.
    """

    def __init__(
        self, view: View, registry: ModelRegistry, scope: str, fitted: Mapping[str, Any], run: TrackedRun,
        siblings: Sequence[View] = (),
    ) -> None:  # fmt: skip
        """`fitted`: `OURS_READS`, fitted on this view; `siblings`: this view of the categories of the same models."""
        self.view, self.registry, self.scope, self.run, self.siblings = view, registry, scope, run, siblings
        self.settings, self.data = view.data.settings, view.data
        self.fitted = fitted
        self.titles, self.vectors = self._title_encoder()

    def rank(self) -> list[Ranked]:
        """Return `ours`, and beside fusion the paper's own way as `ours_mixup` where the settings ask for it."""
        fused = self._fused() if self.settings.recommendations.order == "fusion" else None
        if fused is None:
            return [self._mixup("ours")]
        return [fused, self._mixup("ours_mixup")] if self.settings.evaluation.mixup else [fused]

    def _mixup(self, name: str) -> Ranked:
        answers, answering = self._test_answers
        mixed = MixupRanking(answers, self.fitted["core"].core, self.titles, self.data.items, self.vectors)
        n = self.settings.recommendations.mixup_n
        with timed() as ranking:
            ranks = {
                name: mixed.ranks(self.view.test_items, n, available) for name, available in self.data.candidates()
            }
        read = self.view.test.filter(pc.field("example_id").isin(sorted(self.view.read_by_people)))
        lists = mixed.lists(item_examples(read), n, self.settings.evaluation.k)
        peak = max(answering.peak_mib, ranking.peak_mib)
        return Ranked(name, ranks, lists, 0.0, answering.seconds + ranking.seconds, peak)

    def _fused(self) -> Ranked | None:
        """Return the fusion's ranks; None where validation has no example to fit the ranker on."""
        with timed() as fit:
            sources = self._sources()
            try:
                ranker = self._ranker(sources)
            except BadInputError as error:
                self.run.text(str(error), f"{self.view.name}/no_ranker.txt")
                return None
        answers, answering = self._test_answers if ranker.uses_answers else ({}, None)
        with timed() as cost:
            ranks, lists = self._rankings(answers, sources, ranker)
        costs = [cost] if answering is None else [cost, answering]
        peak = max(fit.peak_mib, *(part.peak_mib for part in costs))
        return Ranked("ours", ranks, lists, fit.seconds, sum(part.seconds for part in costs), peak)

    def _ranker(self, sources: Sources) -> Ranker:
        from ml.ranking.stacking import fit_stacked

        asked = self._questions(sources)
        for view in self.siblings:  # as the nights' ranker is: of all categories that share its models
            if view.validation.num_rows:
                sibling = Ours(view, self.registry, self.scope, fit_references(view, OURS_READS), self.run)
                asked.extend(sibling._questions(sibling._sources()))
        self.run.metric(f"{self.view.name}/ranker_questions", asked.usable())
        stacked = fit_stacked(asked, self.settings.recommendations.ranker)
        if stacked.ranks_with:
            gain = compare(stacked.ranks_with, stacked.ranks_without, self.settings.evaluation)
            self.run.metric(f"{self.view.name}/answer_gain_ndcg", gain["ndcg"][0])
        return stacked.ranker

    def _questions(self, sources: Sources) -> Questions:
        """Return the validation purchases as the ranker is fitted on them."""
        chosen = self.settings.recommendations.ranker
        validation, answered = (
            self.view.sample(size, chosen.seed, "validation") for size in (chosen.examples, chosen.answered)
        )
        own = self._answers(answered) if answered.num_rows else {}
        return questions(self.settings, self.data.warehouse, validation, own, sources)

    @cached_property
    def _test_answers(self) -> tuple[dict[str, Generated], Cost]:
        """The language model's answers to the test examples, and what they cost."""
        with timed() as cost:
            answers = self._answers(self.view.test)
        return answers, cost

    def _rankings(
        self, answers: Mapping[str, Generated], sources: Sources, ranker: Ranker
    ) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
        from ml.ranking.fusion import rankings

        shown = self.view.test_items
        masks = {name: self.data.masks(shown.days, available) for name, available in self.data.candidates()}
        ranks = {name: np.full(len(shown), np.nan) for name in masks}
        lists: dict[str, list[str]] = {}
        asked = examples_asked(self.settings, self.data.warehouse, self.view.test, answers)
        for i, ranking in enumerate(rankings(asked, sources, ranker)):
            row = sources.row_of.get(shown.targets[i])
            for name, by_day in masks.items():
                if row is not None:
                    ranks[name][i] = ranking.rank(row, by_day[shown.days[i]])
            if shown.example_ids[i] in self.view.read_by_people:
                best = ranking.best(self.settings.evaluation.k)
                lists[shown.example_ids[i]] = [sources.items[place] for place in best]
        return ranks, lists

    def _sources(self) -> Sources:
        own, view = self.fitted, self.view
        counted = Counted(own["item_knn"], own["markov"], Demand.of(view.train_items))
        following = fit_next_item(self.settings.recommendations.ranker, view.train_items, view.validation_items)
        return build_sources(
            self.data.catalog, self.vectors, self.titles, own["core"].core, counted, following
        )  # fmt: skip

    def _answers(self, examples: Any) -> dict[str, Generated]:
        return answer_examples(
            self.settings, self.data.warehouse, self.registry, self.data.category, self.scope, examples,
            self.view.actions,
        )  # fmt: skip

    def _title_encoder(self) -> tuple[TitleVectors, np.ndarray]:
        """Return what encodes titles in this view, and the vectors of the catalogue's titles."""
        if self.view.actions == "purchases_only":
            return self.data.text_encoder
        folder = self.settings.work_folder / "evaluation" / self.data.category / self.view.parts
        fitted = fit_title_encoder(
            self.settings, self.data.warehouse, [self.data.category], folder, None, self.view.parts
        )
        encoder = load_title_vectors(fitted.folder)
        return encoder, encoded_titles(encoder, self.data.titles)
