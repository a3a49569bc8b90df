"""Fusion from warehouse tables: the sources of a category, and the ranker that is fitted on its validation examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.fits.counting import Counted, fit_counting, temporal_sequences
from ml.fits.examples import part_of, read_examples
from ml.fits.fitting import Fitted, fresh
from ml.fits.night_before import seen_the_night_before
from ml.ranking import Sources, asked_of_examples
from ml.sequences import ItemSequences
from ml.settings import RankerSettings, Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.baselines.system import NeuralSystem
    from ml.fits.fitting import TitleVectors
    from ml.generation import Generated
    from ml.models.registry import ModelRegistry
    from ml.ranking import Asked
    from ml.ranking.ranker import RankedExample, Ranker
    from ml.ranking.stacking import Questions
    from ml.retrieval import Core

_COUNTING, _NEXT_ITEM = "counting.json", "next_item"


@dataclass(frozen=True)
class Fusion:
    """A ranker, by category what the counting sources chose on validation, and the sequential network, if any."""

    ranker: Ranker
    counting: Mapping[str, Mapping[str, float]]
    next_item: NeuralSystem | None = None

    def save(self, folder: Path) -> None:
        """Write all of it into `folder`."""
        self.ranker.save(folder)
        (folder / _COUNTING).write_text(json.dumps(self.counting), encoding="utf-8")
        if self.next_item is not None:
            self.next_item.save(folder / _NEXT_ITEM)

    @classmethod
    def load(cls, folder: Path) -> Fusion:
        """Read what `save` wrote."""
        from ml.baselines.system import NeuralSystem
        from ml.ranking.ranker import Ranker

        following = NeuralSystem.load(folder / _NEXT_ITEM) if (folder / _NEXT_ITEM).exists() else None
        counting = json.loads((folder / _COUNTING).read_text(encoding="utf-8"))
        return cls(Ranker.load(folder), counting, following)


@dataclass(frozen=True)
class FittedRanker:
    """A saved ranker; how many validation purchases were asked about, and what their answers added to NDCG@10.

    The gain comes with the ends of its interval; None where nothing was asked. `uses_answers`: whether it was enough.
    `unseen_ranks` are the bought item's ranks in `questions` by rankers that were fitted without them, NaN where it is
    no candidate.
    """

    fitted: Fitted
    answered: int
    answer_gain: tuple[float, float, float] | None
    uses_answers: bool
    questions: list[RankedExample | None]
    unseen_ranks: list[float]


def item_texts(items: pa.Table) -> list[str]:
    """Return each catalogue row's title and attribute values as one text."""
    return [
        " ".join([title, *(value for _, value in attributes or ())])
        for title, attributes in zip(items["title"].to_pylist(), items["attributes"].to_pylist(), strict=True)
    ]


def category_items(warehouse: Warehouse, category: str) -> pa.Table:
    """Return the catalogue's rows of one category, by item id."""
    items = warehouse.read("catalog", ["item_id", "title", "category", "attributes"])
    return items.filter(pc.field("category") == category).sort_by("item_id")


def build_sources(
    items: pa.Table,
    title_vectors: np.ndarray,
    encoder: TitleVectors,
    core: Core,
    counted: Counted,
    next_item: NeuralSystem | None,
) -> Sources:
    """Return the sources over the catalogue rows `items`, whose titles' vectors are given."""
    listed = items["item_id"].to_pylist()
    return Sources(
        listed, item_texts(items), title_vectors, encoder, core, counted.knn, counted.markov, counted.demand, next_item
    )


def fit_next_item(settings: RankerSettings, data: ItemSequences, validation: ItemSequences) -> NeuralSystem | None:
    """Return the sequential network of the settings, fitted; None where there is none, or nothing to fit it on."""
    from ml.baselines.system import NeuralSystem
    from ml.retrieval import NothingToTrain

    if settings.next_item == "none":
        return None
    system = NeuralSystem(settings.next_item, settings.next_item_fit)
    try:
        system.fit(data, validation)
    except NothingToTrain:
        return None
    return system


def encoded_titles(encoder: TitleVectors, titles: Sequence[str]) -> np.ndarray:
    """Return float32 [titles, dim]; equal titles are encoded once."""
    distinct = sorted(set(titles))
    row_of = {title: row for row, title in enumerate(distinct)}
    return encoder.encode(distinct)[[row_of[title] for title in titles]]


def examples_asked(
    settings: Settings, warehouse: Warehouse, examples: pa.Table, answers: Mapping[str, Generated]
) -> list[Asked]:
    """Return the examples as questions, with the memory as of the day before each target."""
    from ml.memory import memory_for_examples

    requests = examples.select(["example_id", "category", "query", "target_date"])
    requests = requests.filter(pc.field("query").is_valid())
    memory = {}
    if requests.num_rows:
        memory = memory_for_examples(warehouse, warehouse.read("query_vectors"), settings.memory, requests)
    return asked_of_examples(examples, memory, answers)


def questions(
    settings: Settings, warehouse: Warehouse, examples: pa.Table, answers: Mapping[str, Generated], sources: Sources
) -> Questions:
    """Return what a ranker is fitted on: every example without the model's answer, and again with its answer if any."""
    from ml.ranking.fusion import ranked_examples
    from ml.ranking.stacking import Questions

    asked = examples_asked(settings, warehouse, examples, {})
    targets = examples["target_item"].to_pylist()
    answered = {
        place: (replace(asked[place], answer=answers[example]), targets[place])
        for place, example in enumerate(examples["example_id"].to_pylist())
        if example in answers and answers[example].item_id is not None
    }
    both = list(answered.values())
    again = ranked_examples([one for one, _ in both], [target for _, target in both], sources)
    return Questions(ranked_examples(asked, targets, sources), dict(zip(answered, again, strict=True)))


def fit_fusion(
    settings: Settings,
    warehouse: Warehouse,
    categories: Sequence[str],
    answers: Mapping[str, Mapping[str, Generated]],
    encoder: TitleVectors,
    core: Core,
    folder: Path,
) -> FittedRanker:
    """Fit the ranker of one model partition on the temporal split's validation purchases and save it.

    They are shown as the night before saw them: a ranker of what happens within a visit leans on clicks and searches of
    the last minutes, which a night does not have (docs/log.md). `answers` are the language model's, by category and
    example_id. Raises BadInputError where there are too few.
    """
    from ml.evaluation import compare
    from ml.ranking.stacking import Questions, fit_stacked

    asked = Questions()
    newest = ""
    counting: dict[str, dict[str, float]] = {}
    ranker = settings.recommendations.ranker
    by_category = {category: read_examples(warehouse, [category]) for category in categories}
    following = fit_next_item(ranker, *temporal_sequences(pa.concat_tables(by_category.values())))
    for category, examples in by_category.items():
        sample = validation_nights(settings, examples, ranker.examples)
        if not sample.num_rows:
            continue
        counted = fit_counting(examples)
        items = category_items(warehouse, category)
        vectors = encoded_titles(encoder, items["title"].to_pylist())
        sources = build_sources(items, vectors, encoder, core, counted, following)
        asked.extend(questions(settings, warehouse, sample, answers.get(category, {}), sources))
        newest = max([newest, *(day.isoformat() for day in sample["target_date"].to_pylist())])
        counting[category] = counted.chosen()
    stacked = fit_stacked(asked, ranker, rank_all=True)
    Fusion(stacked.ranker, counting, following).save(fresh(folder))
    fitted = Fitted(folder, "ranker", asked.usable(), newest)
    gain = compare(stacked.ranks_with, stacked.ranks_without, settings.evaluation) if stacked.ranks_with else {}
    return FittedRanker(
        fitted, len(stacked.ranks_with), gain.get("ndcg"), stacked.ranker.uses_answers, asked.plain,
        stacked.unseen_ranks,
    )  # fmt: skip


def validation_nights(settings: Settings, examples: pa.Table, limit: int) -> pa.Table:
    """Return a seeded sample of the temporal split's validation purchases, as the night before saw them."""
    from ml.evaluation import sample_examples

    seen = seen_the_night_before(
        part_of(examples, "temporal", "validation"), settings.log.zone, settings.sequences.max_steps
    )
    return sample_examples(seen, "temporal", limit, settings.recommendations.ranker.seed, "validation")


def validation_answers(
    settings: Settings, warehouse: Warehouse, registry: ModelRegistry, categories: Sequence[str], scope: str
) -> dict[str, dict[str, Generated]]:
    """Return the champion's answers to a sample of each category's validation examples, by category and example_id."""
    from ml.fits.answers import answer_examples

    ranker = settings.recommendations.ranker
    answers = {}
    for category in categories:
        examples = read_examples(warehouse, [category])
        sample = validation_nights(settings, examples, ranker.answered)
        if sample.num_rows:
            answers[category] = answer_examples(settings, warehouse, registry, category, scope, sample, "all")
    return answers
