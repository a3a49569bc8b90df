"""Purchases as the night before saw them: what a nightly table has to go by, and what its ranker should learn from."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pyarrow as pa


def seen_the_night_before(examples: pa.Table, zone: ZoneInfo) -> pa.Table:
    """Return rows of `training_sequences` with the steps before the day of the purchase alone, in the same order.

    `target_time` becomes the first moment of the purchase's day in the shop's time zone, `query` the newest search
    before it. A purchase whose customer had no item step by then has no row: no table could know them. Every row that
    is left is eligible: a night makes a list from one step.
    """
    rows = []
    for row in examples.to_pylist():
        midnight = datetime.combine(row["target_date"], time(), zone)
        steps = [step for step in row["steps"] if step["event_time"] < midnight]
        item_steps = sum(step["item_id"] is not None for step in steps)
        if not item_steps:
            continue
        searches = [step["query"] for step in steps if step["action"] == "search"]
        rows.append(
            {
                **row,
                "steps": steps,
                "target_time": midnight,
                "query": searches[-1] if searches else None,
                "item_steps": item_steps,
                "eligible": True,
            }
        )
    return pa.Table.from_pylist(rows, schema=examples.schema)
