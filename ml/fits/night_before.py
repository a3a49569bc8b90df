"""Purchases as the night before saw them: what a nightly table has to go by, and what its ranker should learn from."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pyarrow as pa

from ml.errors import BadInputError


def seen_the_night_before(examples: pa.Table, zone: ZoneInfo, max_steps: int) -> pa.Table:
    """Return rows of `training_sequences` with the newest steps before the day of the purchase, in the same order.

    With the clicks on the item itself: the click filter hides them from an example, but `user_histories`, which does
    not know what will be bought, shows them. A ranker that never saw them bought would put last what customers looked
    at yesterday.

    `target_time` becomes the first moment of the purchase's day in the shop's time zone, `query` the newest search
    before it. A purchase whose customer had no item step by then has no row: no table could know them. Every row that
    is left is eligible: a night makes a list from one step.
    Raises BadInputError for rows of a version that did not keep `night_clicks`.
    """
    if examples["night_clicks"].null_count:
        raise BadInputError("training_sequences: made by an earlier version, without night_clicks; run `hemline train`")
    rows = []
    for row in examples.to_pylist():
        midnight = datetime.combine(row["target_date"], time(), zone)
        known = [step for step in [*row["steps"], *row["night_clicks"]] if step["event_time"] < midnight]
        steps = sorted(known, key=lambda step: (step["event_time"], step["event_id"]))[-max_steps:]
        item_steps = sum(step["item_id"] is not None for step in steps)
        if not item_steps:
            continue
        searches = [step["query"] for step in steps if step["action"] == "search"]
        rows.append(
            {
                **row,
                "steps": steps,
                "night_clicks": [],
                "target_time": midnight,
                "query": searches[-1] if searches else None,
                "item_steps": item_steps,
                "eligible": True,
            }
        )
    return pa.Table.from_pylist(rows, schema=examples.schema)
