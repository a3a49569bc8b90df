"""Every system's metrics on groups of the test examples: by history, search, repeat and cold start (paper 5.4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow as pa

from ml.evaluation.differences import ranks_by_view
from ml.evaluation.protocol import ItemExamples
from ml.evaluation.rows import evaluate_ranks
from ml.settings import EvaluationSettings
from ml.tables import TABLES

Groups = Mapping[tuple[str, str], Collection[str]]
"""(breakdown, group) → the ids of its examples."""
HISTORY_LENGTHS = (3, 6, 11, 21)
"""Item steps from which a new group of histories begins."""


def example_groups(shown: ItemExamples, test: pa.Table, trained: Collection[str]) -> Groups:
    """Return the groups of the test examples: `shown` as item models see them, `test` their rows, in the same order.

    - `history`: how many item steps are seen.
    - `search`: whether the purchase names the search it came from (nobody is shown that).
    - `repeat`: whether the bought item stands in the history that is seen.
    - `cold`: whether the bought item is among `trained`, the items of the training sequences; and, of those that are
      not, which stand in no test example's history either.
    """
    groups: dict[tuple[str, str], set[str]] = {}
    trained, touched = set(trained), {item for history in shown.histories for item in history}
    queries = test["target_query"].to_pylist()
    for example, history, target, query in zip(shown.example_ids, shown.histories, shown.targets, queries, strict=True):
        named = [
            ("history", _length_group(len(history))),
            ("search", "from a search" if query else "without a search"),
            ("repeat", "in the history" if target in history else "new to the customer"),
            ("cold", "in training" if target in trained else "not in training"),
        ]
        if target not in trained and target not in touched:
            named.append(("cold", "in no sequence"))
        for group in named:
            groups.setdefault(group, set()).add(example)
    return groups


def _length_group(steps: int) -> str:
    below = [length for length in HISTORY_LENGTHS if length <= steps]
    above = [length for length in HISTORY_LENGTHS if length > steps]
    if not below:
        return f"under {HISTORY_LENGTHS[0]} steps"
    return f"{below[-1]} to {above[0] - 1} steps" if above else f"{below[-1]} steps and more"


def breakdown_rows(ranks: pa.Table, groups: Groups, settings: EvaluationSettings) -> pa.Table:
    """Return the rows of `evaluation_breakdowns` for one view's rows of `evaluation_ranks`, among the catalogue."""
    rows = []
    for (split, actions, candidates), systems in ranks_by_view(ranks).items():
        if candidates != "catalogue":
            continue
        for system, own in systems.items():
            for (breakdown, group), members in sorted(groups.items()):
                chosen = [own[example] for example in sorted(members)]
                names = {"breakdown": breakdown, "group": group, "system": system, "split": split, "actions": actions}
                rows += [{**names, **row} for row in evaluate_ranks(chosen, settings)]
    return pa.Table.from_pylist(rows, schema=TABLES["evaluation_breakdowns"].schema)
