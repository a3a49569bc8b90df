"""Ours beside the references on the same held-out purchases (paper section 5, design: evaluation)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.evaluation import evaluation_rows, item_examples, rank_rows, rank_targets, references, sample_examples
from ml.recommend.examples import Split, part_of, read_examples
from ml.recommend.fitting import TitleVectors, fit_title_encoder, load_title_vectors
from ml.recommend.ours import Answers, answer_examples, rank_answers
from ml.sequences import item_sequences, purchases_only
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.registry import ModelRegistry, TrackedRun
    from ml.retrieval import Core

Actions = Literal["all", "purchases_only"]


@dataclass(frozen=True)
class Comparison:
    """Rows of `evaluation_metrics` and of `evaluation_ranks`."""

    metrics: pa.Table
    ranks: pa.Table


class CategoryComparison:
    """Scores every system on one category, split by split, on the whole log and on purchases only.

    Every system is fitted on the split's own training part. The one exception is our adapter: it was fitted on rows
    that both splits train on, and is the same everywhere. On purchases only, nobody sees searches, clicks or the
    memory, and the memory's text encoder stands in for the title encoder, which learns from searches.
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
            least = self.settings.sequences.min_item_steps
            test, examples = purchases_only(test, least), purchases_only(examples, least)
            titles = self._text_encoder()
        shown = item_examples(test)
        data = item_sequences(examples, split, "train")
        held_out = item_sequences(part_of(examples, split, "validation"), split, "train_validation", data.items)
        core: Core | None = None
        for system in references(self.settings.item_embeddings):
            system.fit(data, held_out)
            core = getattr(system, "core", core)
            for candidates, available in self._candidates():
                self._keep(system.name, split, actions, candidates, shown.example_ids,
                           rank_targets(system, shown, self.items, available))  # fmt: skip
        assert core is not None  # CORE is one of the references
        answers = self._answers(test, actions)
        for candidates, available in self._candidates():
            ranks = rank_answers(
                answers, shown, core, titles, self.items, self._title_vectors(titles),
                self.settings.recommendations.mixup_n, available,
            )  # fmt: skip
            self._keep("ours", split, actions, candidates, shown.example_ids, ranks)

    def _candidates(self) -> list[tuple[str, Callable[[str], Collection[str]] | None]]:
        return [("catalogue", None), ("available", self.available)]

    def _answers(self, test: pa.Table, actions: Actions) -> Answers:
        return answer_examples(self.settings, self.warehouse, self.registry, self.category, self.scope, test, actions)

    def _keep(self, system: str, split: str, actions: str, candidates: str, ids: list[str], ranks: np.ndarray) -> None:
        metrics = evaluation_rows(system, split, actions, candidates, ranks, self.run.run_id, self.settings.evaluation)
        self.parts.append((metrics, rank_rows(system, split, actions, candidates, ids, ranks)))
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
        distinct = sorted(set(self.titles))
        rows = {title: row for row, title in enumerate(distinct)}
        return titles.encode(distinct)[[rows[title] for title in self.titles]]
