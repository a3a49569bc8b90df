"""Ours beside the references on the same held-out purchases (paper section 5, design: evaluation)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.errors import BadInputError
from ml.evaluation import evaluation_rows, item_examples, rank_rows, rank_targets, references, sample_examples
from ml.recommend.examples import Split, part_of, read_examples
from ml.recommend.fitting import TitleVectors, fit_title_encoder, load_title_vectors
from ml.recommend.fusing import build_sources, category_items, encoded_titles, examples_asked, questions
from ml.recommend.ours import answer_examples, rank_answers
from ml.sequences import ItemSequences, item_sequences, purchases_only
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.evaluation import ItemExamples
    from ml.generation import Generated
    from ml.registry import ModelRegistry, TrackedRun

Actions = Literal["all", "purchases_only"]


@dataclass(frozen=True)
class Comparison:
    """Rows of `evaluation_metrics` and of `evaluation_ranks`."""

    metrics: pa.Table
    ranks: pa.Table


@dataclass(frozen=True)
class View:
    """One way to look at a category's test examples: a split, the actions shown, and the title encoder that fits."""

    split: Split
    actions: Actions
    titles: TitleVectors
    test: pa.Table
    shown: ItemExamples


class CategoryComparison:
    """Scores every system on one category, split by split, on the whole log and on purchases only.

    Every system is fitted on the split's own training part, and what it leaves open on the validation part. The one
    exception is our adapter: it was fitted on rows that both splits train on, and is the same everywhere. `ours` is
    what the settings serve; beside fusion, the paper's own way stands as `ours_mixup`. On purchases only, nobody sees
    searches, clicks or the memory, and the memory's text encoder stands in for the title encoder, which learns from
    searches.
    """

    def __init__(
        self, settings: Settings, warehouse: Warehouse, registry: ModelRegistry, category: str, scope: str,
        run: TrackedRun,
    ) -> None:  # fmt: skip
        self.settings, self.warehouse, self.registry = settings, warehouse, registry
        self.category, self.scope, self.run = category, scope, run
        self.examples = read_examples(warehouse, [category])
        items = warehouse.read("catalog", ["item_id", "title", "category"])
        items = items.filter(pc.field("category") == category).sort_by("item_id")
        self.items: list[str] = items["item_id"].to_pylist()
        self.titles: list[str] = items["title"].to_pylist()
        self.available = cache(self._available)
        self.parts: list[tuple[pa.Table, pa.Table]] = []

    def compare(self) -> Comparison:
        """Return every system's metrics and ranks."""
        for split in self.settings.evaluation.splits:
            titles = self._title_encoder(split)
            for actions in self.settings.evaluation.actions:
                self._compare_view(split, actions, titles)
        metrics = [TABLES["evaluation_metrics"].schema.empty_table(), *(m for m, _ in self.parts)]
        ranks = [TABLES["evaluation_ranks"].schema.empty_table(), *(r for _, r in self.parts)]
        return Comparison(pa.concat_tables(metrics), pa.concat_tables(ranks))

    def _compare_view(self, split: Split, actions: Actions, titles: TitleVectors) -> None:
        evaluation = self.settings.evaluation
        test = sample_examples(self.examples, split, evaluation.users, evaluation.seed)
        if not test.num_rows:
            return
        examples = self.examples
        if actions == "purchases_only":
            test, examples = self._bare(test), self._bare(examples)
            titles = self._text_encoder()
        view = View(split, actions, titles, test, item_examples(test))
        data = item_sequences(examples, split, "train")
        held_out = item_sequences(part_of(examples, split, "validation"), split, "train_validation", data.items)
        fitted: dict[str, Any] = {}
        for system in references(self.settings.item_embeddings):
            system.fit(data, held_out)
            fitted[system.name] = system
            for candidates, available in self._candidates():
                ranks = rank_targets(system, view.shown, self.items, available)
                self._keep(system.name, view, candidates, ranks)
        for name in evaluation.more_systems:
            self._compare_further(name, view, examples, data, held_out)
        self._compare_ours(view, data, fitted)

    def _compare_further(
        self, name: str, view: View, examples: pa.Table, data: ItemSequences, held_out: ItemSequences
    ) -> None:
        """Fit and rank one of the systems that are not always there."""
        from ml.baselines import NAMES, baseline

        evaluation = self.settings.evaluation
        if name in NAMES:
            system, shown = baseline(name, evaluation.baselines), view.shown
            system.fit(data, held_out)
        elif name == "recformer_queries" and view.actions == "purchases_only":
            return  # without searches it is Recformer
        else:
            from ml.baselines.recformer import Recformer, RowSystem

            catalog = category_items(self.warehouse, self.category)
            recformer = Recformer(evaluation.recformer, catalog, name == "recformer_queries", self.run)
            chosen = part_of(examples, view.split, "validation").filter(pc.field("eligible"))
            recformer.fit_examples(examples, view.split, chosen)
            system = RowSystem(recformer, view.test)
            shown = system.examples
        for candidates, available in self._candidates():
            self._keep(name, view, candidates, rank_targets(system, shown, self.items, available))

    def _compare_ours(self, view: View, data: ItemSequences, fitted: Mapping[str, Any]) -> None:
        """Rank by the paper's mixup, and by fusion where that is the setting and validation has enough examples."""
        recommendations, core = self.settings.recommendations, fitted["core"].core
        answers = self._answers(view.test, view.actions)
        fused = None
        if recommendations.order == "fusion":
            fused = self._fused(view, data, fitted, answers)
        mixup_name = "ours" if fused is None else "ours_mixup"
        for candidates, available in self._candidates():
            ranks = rank_answers(
                answers, view.shown, core, view.titles, self.items, self._title_vectors(view.titles),
                recommendations.mixup_n, available,
            )  # fmt: skip
            self._keep(mixup_name, view, candidates, ranks)
        for candidates, ranks in (fused or {}).items():
            self._keep("ours", view, candidates, ranks)

    def _fused(
        self, view: View, data: ItemSequences, fitted: Mapping[str, Any], answers: Mapping[str, Generated]
    ) -> dict[str, np.ndarray] | None:
        """Return our ranks by kind of candidates; None where the ranker has too little to be fitted on."""
        from ml.ranking.fusion import rankings
        from ml.ranking.ranker import fit_ranker

        ranker = self.settings.recommendations.ranker
        sources = build_sources(
            category_items(self.warehouse, self.category), self._title_vectors(view.titles), view.titles,
            fitted["core"].core, fitted["item_knn"], fitted["markov"], data,
        )  # fmt: skip
        validation, answered = (
            self._shown(sample_examples(self.examples, view.split, size, ranker.seed, "validation"), view.actions)
            for size in (ranker.examples, ranker.answered)
        )
        own = self._answers(answered, view.actions) if answered.num_rows else {}
        try:
            model = fit_ranker(questions(self.settings, self.warehouse, validation, own, sources), ranker)
        except BadInputError as error:
            self.run.text(str(error), f"{view.split}/{view.actions}/no_ranker.txt")
            return None
        asked = examples_asked(self.settings, self.warehouse, view.test, answers)
        masks = {name: self._masks(view.shown.days, available) for name, available in self._candidates()}
        ranks = {name: np.full(len(asked), np.nan) for name in masks}
        for i, ranking in enumerate(rankings(asked, sources, model)):
            row = sources.row_of.get(view.shown.targets[i])
            for name, by_day in masks.items():
                if row is not None:
                    ranks[name][i] = ranking.rank(row, by_day[view.shown.days[i]])
        return ranks

    def _masks(
        self, days: Sequence[str], available: Callable[[str], Collection[str]] | None
    ) -> dict[str, np.ndarray | None]:
        """Return, by day, which of the category's items are candidates; None: all of them."""
        if available is None:
            return dict.fromkeys(days)
        return {day: np.isin(np.array(self.items), np.array(sorted(available(day)))) for day in set(days)}

    def _shown(self, examples: pa.Table, actions: Actions) -> pa.Table:
        return self._bare(examples) if actions == "purchases_only" else examples

    def _bare(self, examples: pa.Table) -> pa.Table:
        return purchases_only(examples, self.settings.sequences.min_item_steps)

    def _candidates(self) -> list[tuple[str, Callable[[str], Collection[str]] | None]]:
        return [("catalogue", None), ("available", self.available)]

    def _answers(self, test: pa.Table, actions: Actions) -> dict[str, Generated]:
        return answer_examples(self.settings, self.warehouse, self.registry, self.category, self.scope, test, actions)

    def _keep(self, system: str, view: View, candidates: str, ranks: np.ndarray) -> None:
        split, actions = view.split, view.actions
        metrics = evaluation_rows(system, split, actions, candidates, ranks, self.run.run_id, self.settings.evaluation)
        self.parts.append((metrics, rank_rows(system, split, actions, candidates, view.shown.example_ids, ranks)))
        for row in metrics.to_pylist():
            self.run.metric(f"{split}/{actions}/{candidates}/{system}/{row['metric']}", row["value"])

    def _available(self, day: str) -> Collection[str]:
        """Return what was available before `day`: the table a customer saw was made the night before."""
        from ml.log import available_items

        before = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
        items = available_items(self.warehouse, before, self.settings.recommendations.available_days)
        return frozenset(items.get(self.category, []))

    def _title_encoder(self, split: Split) -> TitleVectors:
        folder = self.settings.work_folder / "evaluation" / self.category / split
        fitted = fit_title_encoder(self.settings, self.warehouse, [self.category], folder, None, split)
        return load_title_vectors(fitted.folder)

    @cache  # noqa: B019 (a comparison lives as long as one asset)
    def _text_encoder(self) -> TitleVectors:
        from ml.memory import load_text_encoder

        return load_text_encoder(self.settings.memory.encoder, self.settings.memory.batch_size)

    @cache  # noqa: B019
    def _title_vectors(self, titles: TitleVectors) -> np.ndarray:
        return encoded_titles(titles, self.titles)
