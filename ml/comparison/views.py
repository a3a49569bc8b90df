"""The ways to look at a category's held-out purchases: by split, and with all steps or with purchases alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache, cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from ml.evaluation import ItemExamples, example_groups, item_examples, sample_examples
from ml.evaluation.breakdowns import Groups
from ml.evaluation.core_system import seen_only
from ml.fits.examples import Split, part_of, read_examples
from ml.fits.fitting import TitleVectors
from ml.fits.fusing import category_items, encoded_titles
from ml.fits.night_before import seen_the_night_before
from ml.sequences import ItemSequences, item_sequences, purchases_only
from ml.settings import Settings
from ml.warehouse import Warehouse

Actions = Literal["all", "purchases_only"]
Available = Callable[[str], Collection[str]]
SHOWN = 20
"""Customers of a view whose lists are kept for people to read."""


class CategoryData:
    """What every view of a category shares: its examples, its items, and which were available when."""

    def __init__(self, settings: Settings, warehouse: Warehouse, category: str) -> None:
        self.settings, self.warehouse, self.category = settings, warehouse, category
        self.examples = read_examples(warehouse, [category])
        self.catalog = category_items(warehouse, category)
        self.items: list[str] = self.catalog["item_id"].to_pylist()
        self.titles: list[str] = self.catalog["title"].to_pylist()
        self.available = cache(self._available)

    def candidates(self) -> list[tuple[str, Available | None]]:
        """Return the kinds of candidates: the whole catalogue, and what was available before the target's day."""
        return [("catalogue", None), ("available", self.available)]

    @cached_property
    def text_encoder(self) -> tuple[TitleVectors, np.ndarray]:
        """The memory's text encoder, in the title encoder's place, and its vectors of the catalogue's titles."""
        from ml.memory import load_text_encoder

        encoder = load_text_encoder(self.settings.memory.encoder, self.settings.memory.batch_size)
        return encoder, encoded_titles(encoder, self.titles)

    def _available(self, day: str) -> Collection[str]:
        """Return what was available before `day`: the table a customer saw was made the night before."""
        from ml.log import available_items

        before = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
        items = available_items(self.warehouse, before, self.settings.recommendations.available_days)
        return frozenset(items.get(self.category, []))

    def masks(self, days: Sequence[str], available: Available | None) -> dict[str, np.ndarray | None]:
        """Return, by day, which of the category's items are candidates; None: all of them."""
        if available is None:
            return dict.fromkeys(days)
        return {day: np.isin(np.array(self.items), np.array(sorted(available(day)))) for day in set(days)}


@dataclass(frozen=True)
class View:
    """One way to look at a category: a split, and the actions that every system sees.

    `nightly` is the temporal split with validation and test purchases as the night before saw them.
    """

    data: CategoryData
    split: Literal["temporal", "leave_one_out", "nightly"]
    actions: Actions

    @property
    def parts(self) -> Split:
        """The split that says which rows are for training, validation and test."""
        return "temporal" if self.split == "nightly" else self.split

    @property
    def name(self) -> str:
        """The view in words, as a path of two parts."""
        return f"{self.split}/{self.actions}"

    def sample(self, examples: int, seed: int, part: Literal["validation", "test"]) -> pa.Table:
        """Return the fixed sample of a part as this view shows it.

        Which examples is decided on the whole log, so that both kinds of actions have the same.
        """
        return self._shown(sample_examples(self._held_out[part], self.parts, examples, seed, part))

    @cached_property
    def _whole_test(self) -> pa.Table:
        evaluation = self.data.settings.evaluation
        return sample_examples(self._held_out["test"], self.parts, evaluation.users, evaluation.seed)

    @cached_property
    def _held_out(self) -> dict[str, pa.Table]:
        """Validation and test rows, with all their steps."""
        rows = {part: part_of(self.data.examples, self.parts, part) for part in ("validation", "test")}
        if self.split != "nightly":
            return rows
        settings = self.data.settings
        return {
            part: seen_the_night_before(own, settings.log.zone, settings.sequences.max_steps)
            for part, own in rows.items()
        }

    @cached_property
    def examples(self) -> pa.Table:
        """All examples of the category, as this view shows them."""
        return self._shown(self.data.examples)

    @cached_property
    def test(self) -> pa.Table:
        """The test rows that every system is scored on."""
        return self._shown(self._whole_test)

    @cached_property
    def test_items(self) -> ItemExamples:
        """The test rows as item models see them."""
        return item_examples(self.test)

    @cached_property
    def validation(self) -> pa.Table:
        """All validation rows."""
        return self._shown(self._held_out["validation"])

    @cached_property
    def train_items(self) -> ItemSequences:
        """What item models are fitted on."""
        return item_sequences(self.examples, self.parts, "train")

    @cached_property
    def validation_items(self) -> ItemSequences:
        """What item models choose by."""
        return item_sequences(self.validation, self.parts, "train_validation", self.train_items.items)

    @cached_property
    def groups(self) -> Groups:
        """The test examples by what may decide how hard they are."""
        return example_groups(self.test_items, self._whole_test, seen_only(self.train_items).items)

    @cached_property
    def read_by_people(self) -> frozenset[str]:
        """The ids of the test examples whose lists are kept."""
        evaluation = self.data.settings.evaluation
        rows = sample_examples(self._whole_test, self.parts, SHOWN, evaluation.seed)
        return frozenset(rows["example_id"].to_pylist())

    def _shown(self, examples: pa.Table) -> pa.Table:
        if self.actions == "all":
            return examples
        return purchases_only(examples, self.data.settings.sequences.min_item_steps)
