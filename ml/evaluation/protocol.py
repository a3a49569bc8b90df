"""The one protocol: fixed test examples, what each system may see of them, and the rank it gives the bought item."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ml.errors import BadInputError, HemlineError
from ml.sequences import ItemSequences

_CELLS = 8_000_000
"""Scores held at once (float64: 64 MB)."""
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class ItemExamples:
    """Test examples as item models see them: parallel lists, one entry an example.

    `histories` are the item ids of the clicks and purchases before the target, oldest first; `ages` (float64, same
    lengths) the days from each to the target; `days` the target's day, 'YYYY-MM-DD'.
    """

    example_ids: list[str]
    histories: list[list[str]]
    ages: list[np.ndarray]
    targets: list[str]
    days: list[str]

    def __len__(self) -> int:
        return len(self.example_ids)


class System(Protocol):
    """Anything that scores every item of its vocabulary for a history of items."""

    name: str
    items: list[str]

    def fit(self, data: ItemSequences, validation: ItemSequences | None = None) -> None:
        """Learn from `data`; choose by `validation`, whose sequences end with the item to predict."""
        ...

    def scores(self, histories: Sequence[np.ndarray], ages: Sequence[np.ndarray]) -> np.ndarray:
        """Return float [n, items]; -inf for items the system does not know. Histories are indices into `items`."""
        ...


def sample_examples(
    examples: pa.Table,
    split: Literal["temporal", "leave_one_out"],
    users: int,
    seed: int = 0,
    part: Literal["validation", "test"] = "test",
) -> pa.Table:
    """Return the fixed test rows of `training_sequences`: eligible ones of the part, at most `users`, by example_id.

    Which ones is decided by a hash of seed and example_id: a row's place in the table, other rows, and the system
    that is asked change nothing, and a smaller sample is part of a larger one. To score the same customers on
    purchases only, sample first and apply `purchases_only` then: eligibility is judged here, once.
    """
    chosen = examples.filter((pc.field(f"{split}_split") == part) & pc.field("eligible"))
    ids = chosen["example_id"].to_pylist()
    rows = sorted(range(len(ids)), key=lambda row: hashlib.blake2b(f"{seed}|{ids[row]}".encode()).digest())[:users]
    return chosen.take(pa.array(sorted(rows, key=lambda row: ids[row]), pa.int64()))


def item_examples(examples: pa.Table) -> ItemExamples:
    """Return rows of `training_sequences` as item models see them, in the same order."""
    histories, ages = [], []
    for steps, target_time in zip(examples["steps"], examples["target_time"].cast(pa.int64()).to_pylist(), strict=True):
        times = steps.values.field("event_time").cast(pa.int64()).to_pylist()
        items = steps.values.field("item_id").to_pylist()
        known = [(item, (target_time - time) / _DAY_US) for item, time in zip(items, times, strict=True) if item]
        histories.append([item for item, _ in known])
        ages.append(np.array([age for _, age in known], dtype=np.float64))
    return ItemExamples(
        example_ids=examples["example_id"].to_pylist(),
        histories=histories,
        ages=ages,
        targets=examples["target_item"].to_pylist(),
        days=[day.isoformat() for day in examples["target_date"].to_pylist()],
    )


def rank_targets(
    system: System,
    examples: ItemExamples,
    catalogue: Collection[str],
    available: Callable[[str], Collection[str]] | None = None,
) -> np.ndarray:
    """Return float64 [n]: the 1-based rank of every example's target among the candidates, NaN where it never ranks.

    Candidates are all of `catalogue` or, with `available`, those of `catalogue` in `available(day)`, which is asked
    once per day of targets and must say what was available before that day. An item the system does not know scores
    lowest, all of them alike. Ties count against the system: the rank is the number of candidates that score at
    least what the target scores. A target that is no candidate never ranks.
    Scores are held for a block of examples at a time, about 64 MB.
    Raises HemlineError where a system gives NaN.
    """
    index = {item: i for i, item in enumerate(system.items)}
    everything = set(catalogue)
    ranks = np.full(len(examples), np.nan)
    order = np.argsort(np.array(examples.days, dtype=str), kind="stable")
    block = max(1, _CELLS // max(1, len(index)))
    with tqdm(total=len(order), desc=f"rank by {system.name}", unit="example", disable=None) as bar:
        for day, rows in _by_day(order, examples.days, available is not None):
            candidates = everything if available is None else everything.intersection(available(day))
            known = np.zeros(len(index), dtype=bool)
            known[[index[item] for item in candidates if item in index]] = True
            for first in range(0, len(rows), block):
                some = rows[first : first + block]
                ranks[some] = _rank_block(system, examples, some, index, candidates, known)
                bar.update(len(some))
    return ranks


def best_items(
    system: System, examples: ItemExamples, rows: Sequence[int], catalogue: Collection[str], k: int
) -> dict[str, list[str]]:
    """Return, by example_id, the `k` best items of `catalogue` for some of the examples; ties in vocabulary order.

    Fewer where the system knows fewer: an item that scores -inf is recommended to nobody.
    """
    index = {item: i for i, item in enumerate(system.items)}
    allowed = np.isin(np.array(system.items, dtype=str), np.array(sorted(catalogue), dtype=str))
    lists: dict[str, list[str]] = {}
    for row in rows:
        scores = _scores(system, examples, [row], index)
        scores = np.where(allowed, scores[0], -np.inf)
        order = np.argsort(-scores, kind="stable")[:k]
        lists[examples.example_ids[row]] = [system.items[i] for i in order if scores[i] > -np.inf]
    return lists


def _by_day(order: np.ndarray, days: list[str], separate: bool) -> list[tuple[str, np.ndarray]]:
    """Return example numbers by the day of their target, or all together where the day does not matter."""
    if not len(order):
        return []
    if not separate:
        return [("", order)]
    names = np.array(days, dtype=str)[order]
    cuts = np.flatnonzero(names[1:] != names[:-1]) + 1
    return [(days[rows[0]], rows) for rows in np.split(order, cuts)]


def _rank_block(
    system: System,
    examples: ItemExamples,
    rows: np.ndarray,
    index: dict[str, int],
    candidates: set[str],
    known: np.ndarray,
) -> np.ndarray:
    scores = _scores(system, examples, rows, index)
    targets = [examples.targets[row] for row in rows]
    own = np.array(
        [scores[n, index[item]] if item in index else -np.inf for n, item in enumerate(targets)], dtype=scores.dtype
    )
    ahead = ((scores >= own[:, None]) & known).sum(axis=1)
    # Whatever is not in the vocabulary ties with every other item that the system does not know.
    ahead[own == -np.inf] = len(candidates)
    return np.where([item in candidates for item in targets], ahead, np.nan)


def _scores(
    system: System, examples: ItemExamples, rows: Sequence[int] | np.ndarray, index: dict[str, int]
) -> np.ndarray:
    """Ask the system about some examples; raises HemlineError where its answer has another shape or a NaN."""
    histories, ages = [], []
    for row in rows:
        places = np.array([index.get(item, -1) for item in examples.histories[row]], dtype=np.int64)
        histories.append(places[places >= 0])
        ages.append(np.asarray(examples.ages[row])[places >= 0])
    scores = np.asarray(system.scores(histories, ages))
    if scores.shape != (len(rows), len(index)):
        raise HemlineError(f"{system.name} gave scores of shape {scores.shape}, expected {(len(rows), len(index))}")
    if np.isnan(scores).any():
        raise HemlineError(f"{system.name} scored an item NaN: its fit failed, and no rank means anything")
    return scores


def check_fitted(name: str, items: list[str]) -> None:
    """Raise BadInputError where a system has learnt nothing."""
    if not items:
        raise BadInputError(f"{name} has no items to score: fit it on sequences with at least one item")
