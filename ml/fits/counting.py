"""The sources that only count, fitted on the temporal split, or on all that a night knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from ml.evaluation.references import ItemKNN, Markov
from ml.fits.examples import part_of
from ml.ranking import Demand
from ml.sequences import ItemSequences, history_sequences, item_sequences

_CHOSEN = ("half_life_days", "rank_decay", "self_weight")
_MARKOV = "markov_self_weight"


@dataclass(frozen=True)
class Counted:
    """What is counted of sequences: item-kNN, Markov, and demand."""

    knn: ItemKNN
    markov: Markov
    demand: Demand

    def chosen(self) -> dict[str, float]:
        """Return what the counting sources chose on validation, for `counting_as_of`."""
        return {name: getattr(self.knn, name) for name in _CHOSEN} | {_MARKOV: self.markov.self_weight}


def temporal_sequences(examples: pa.Table) -> tuple[ItemSequences, ItemSequences]:
    """Return the temporal split's training sequences, and those of its validation part."""
    data = item_sequences(examples, "temporal", "train")
    held_out = part_of(examples, "temporal", "validation")
    return data, item_sequences(held_out, "temporal", "train_validation", data.items)


def fit_counting(examples: pa.Table) -> Counted:
    """Return what is counted of the temporal split's training part; item-kNN and Markov choose on its validation."""
    data, held_out = temporal_sequences(examples)
    knn, markov = ItemKNN(), Markov()
    knn.fit(data, held_out)
    markov.fit(data, held_out)
    return Counted(knn, markov, Demand.of(data))


def counting_as_of(histories: Iterable[pa.RecordBatch], chosen: Mapping[str, float] | None) -> Counted | None:
    """Return what is counted of everything a night's customers did up to its day; None without an item step."""
    data = history_sequences(histories)
    if not data.sequences:
        return None
    knn, markov = ItemKNN(), Markov()
    for name, value in (chosen or {}).items():
        if name == _MARKOV:
            markov.self_weight = value
        else:
            setattr(knn, name, value)
    knn.fit(data)
    markov.fit(data)
    return Counted(knn, markov, Demand.of(data))
