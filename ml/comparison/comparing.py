"""Ours beside every other system on the same held-out purchases (paper section 5, design: evaluation)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ml.comparison.contenders import OURS_READS, Ours, Ranked, fit_references, rank_further, rank_reference
from ml.comparison.finished import Finished
from ml.comparison.views import CategoryData, View
from ml.evaluation import breakdown_rows, difference_rows, evaluation_rows, rank_rows, references
from ml.evaluation.differences import OURS
from ml.language_model import number_type
from ml.models.champions import require_champion
from ml.origins import origin
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.models.registry import ModelRegistry
    from ml.models.run import TrackedRun

COMPARED = tuple(name for name in TABLES if name.startswith("evaluation_"))
"""The tables of a comparison."""


class CategoryComparison:
    """Scores every system on one category, view by view; what was finished before is not done again."""

    def __init__(
        self, settings: Settings, warehouse: Warehouse, registry: ModelRegistry, category: str, scope: str,
        run: TrackedRun, siblings: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """`siblings`: the other categories that the models of `scope` serve."""
        self.settings, self.registry, self.scope, self.run = settings, registry, scope, run
        self.data = CategoryData(settings, warehouse, category)
        self.siblings = [CategoryData(settings, warehouse, sibling) for sibling in siblings]
        folder = settings.work_folder / "evaluation" / category / "finished"
        own = self._who_is_asked()
        own += [name for sibling in siblings for name in warehouse.content("training_sequences", category=sibling)]
        self.finished = Finished(settings, warehouse, category, folder, own)
        self.parts: dict[str, list[pa.Table]] = {name: [TABLES[name].schema.empty_table()] for name in COMPARED}
        self.differences: dict[str, pa.Table] = {}

    def _who_is_asked(self) -> list[str]:
        """Return the language model that answers for ours, as words; none where the settings ask nobody."""
        recommendations, model = self.settings.recommendations, self.settings.language_model
        fused = recommendations.order == "fusion" and not self.settings.evaluation.mixup
        if fused and not recommendations.ranker.answered:
            return []
        adapter = require_champion(self.registry, "adapter", self.scope)
        return [adapter.scope, str(adapter.version), model.base_model, number_type(model)]

    def compare(self) -> Iterator[Mapping[str, pa.Table]]:
        """Yield the tables of all systems so far, by name: the cheap and telling systems of every view come first."""
        phases = (False, True) if self.settings.evaluation.more_systems else (False,)
        for further in phases:
            for view in self._views():
                if view.test.num_rows:
                    self._compare_view(view, further)
                    self._compare_with_ours(view)
                    yield self.tables()
        if not self.differences:
            yield self.tables()  # not one test example: the tables are there, and empty

    def tables(self) -> dict[str, pa.Table]:
        """Return the tables of all systems that are ranked so far."""
        tables = {name: pa.concat_tables(parts) for name, parts in self.parts.items()}
        differences = [TABLES["evaluation_differences"].schema.empty_table(), *self.differences.values()]
        return {**tables, "evaluation_differences": pa.concat_tables(differences)}

    def _views(self) -> Iterator[View]:
        evaluation = self.settings.evaluation
        for split in evaluation.splits:
            for actions in evaluation.actions:
                yield View(self.data, split, actions)

    def _compare_view(self, view: View, further: bool) -> None:
        if further:
            for name in self.settings.evaluation.more_systems:
                if name == "recformer_queries" and view.actions == "purchases_only":
                    continue  # without searches it is Recformer
                self._rank(view, name, lambda name=name: [rank_further(view, name, self.run)])
            return
        fitted: dict[str, Any] = {}
        for name in (system.name for system in references(self.settings.item_embeddings)):
            self._rank(view, name, lambda name=name: [rank_reference(view, name, fitted)])

        def ours() -> list[Ranked]:
            # where a reference's ranks were finished in an earlier try, it was not fitted in this one
            missing = [name for name in OURS_READS if name not in fitted]
            read = fitted | fit_references(view, missing)
            siblings = [View(data, view.split, view.actions) for data in self.siblings]
            return Ours(view, self.registry, self.scope, read, self.run, siblings).rank()

        self._rank(view, OURS, ours)

    def _rank(self, view: View, name: str, rank: Callable[[], list[Ranked]]) -> None:
        results = self.finished.load(view.name, name)
        if results is None:
            results = rank()
            self.finished.save(view.name, name, results)
        for result in results:
            self._keep(view, result)

    def _keep(self, view: View, result: Ranked) -> None:
        evaluation, names = self.settings.evaluation, (result.system, view.split, view.actions)
        ranks = pa.concat_tables(
            rank_rows(*names, candidates, view.test_items.example_ids, own) for candidates, own in result.ranks.items()
        )
        self.parts["evaluation_ranks"].append(ranks)
        self.parts["evaluation_breakdowns"].append(breakdown_rows(ranks, view.groups, evaluation))
        made = self._origin(result.system)
        for candidates, own in result.ranks.items():
            metrics = evaluation_rows(*names, candidates, own, made, evaluation)
            self.parts["evaluation_metrics"].append(metrics)
            for row in metrics.to_pylist():
                self.run.metric(f"{view.name}/{candidates}/{result.system}/{row['metric']}", row["value"])
        shown = dict(zip(("system", "split", "actions"), names, strict=True))
        self._append("evaluation_costs", [{**shown, **_cost(result, len(view.test_items))}])
        self._append(
            "evaluation_lists",
            [
                {**shown, "example_id": example, "rank": rank, "item_id": item}
                for example, items in result.lists.items()
                for rank, item in enumerate(items, 1)
            ],
        )

    def _origin(self, system: str) -> dict[str, object]:
        """Return where a system's rows come from, with the settings of the intervals and the adapter of ours."""
        read: dict[str, object] = {**self.finished.settings_of(OURS if system.startswith(OURS) else system)}
        read["intervals"] = {name: getattr(self.settings.evaluation, name) for name in ("resamples", "confidence")}
        if system.startswith(OURS):
            read["adapter"] = self.finished.ours
        made = origin(self.data.examples, self.finished.data, read, self.settings.evaluation.seed)
        return {**made, "run_id": self.run.run_id}

    def _compare_with_ours(self, view: View) -> None:
        ranks = pa.concat_tables(self.parts["evaluation_ranks"])
        own = ranks.filter((pc.field("split") == view.split) & (pc.field("actions") == view.actions))
        self.differences[view.name] = difference_rows(own, self.settings.evaluation)

    def _append(self, table: str, rows: list[dict[str, Any]]) -> None:
        self.parts[table].append(pa.Table.from_pylist(rows, schema=TABLES[table].schema))


def _cost(result: Ranked, examples: int) -> dict[str, Any]:
    names = ("fit_seconds", "rank_seconds", "peak_memory_mib")
    speed = examples / max(result.rank_seconds, 1e-9)
    return {**{name: getattr(result, name) for name in names}, "examples_per_second": speed, "examples": examples}
