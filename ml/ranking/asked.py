"""What is asked of the ranking: one customer at one moment, with what was known before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import datetime as dt

    from ml.generation import Generated

_DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Asked:
    """A customer's item steps (oldest first, `ages` in days before the moment), search, memory and model's answer."""

    items: list[str]
    bought: list[bool]
    ages: list[float]
    query: str | None
    memory: Sequence[str] = ()
    answer: Generated | None = None


def asked_of_examples(
    examples: pa.Table,
    memory: Mapping[str, Sequence[str]],
    answers: Mapping[str, Generated],
) -> list[Asked]:
    """Return one question per row of `training_sequences`; memory and answers are by example_id, and may lack some."""
    columns = ["example_id", "steps", "query", "target_time"]
    return [
        _asked(row["steps"], row["target_time"], row["query"], memory, answers, row["example_id"])
        for row in examples.select(columns).to_pylist()
    ]


def asked_of_histories(
    histories: pa.Table,
    moment: dt.datetime,
    queries: Sequence[str | None],
    memory: Mapping[str, Sequence[str]],
    answers: Mapping[str, Generated],
) -> list[Asked]:
    """Return one question per row of `user_histories` at `moment`; memory is by query, answers by user_id."""
    rows = histories.select(["user_id", "steps"]).to_pylist()
    return [
        _asked(row["steps"], moment, query, {row["user_id"]: memory.get(query or "", ())}, answers, row["user_id"])
        for row, query in zip(rows, queries, strict=True)
    ]


def _asked(
    steps: Sequence[Mapping[str, Any]],
    moment: dt.datetime,
    query: str | None,
    memory: Mapping[str, Sequence[str]],
    answers: Mapping[str, Generated],
    key: str,
) -> Asked:
    own = [step for step in steps if step["item_id"]]
    return Asked(
        [step["item_id"] for step in own],
        [step["action"] == "purchase" for step in own],
        [(moment - step["event_time"]).total_seconds() / _DAY_SECONDS for step in own],
        query or None,
        memory.get(key, ()),
        answers.get(key),
    )
