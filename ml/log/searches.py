"""Which category a search belongs to: that of the item step it led to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SESSION_GAP_MINUTES = 30
"""Without a session id, a search reaches an item step this soon after it."""


def with_search_categories(events: DataFrame, session_gap_minutes: int = SESSION_GAP_MINUTES) -> DataFrame:
    """Fill `category` of the searches in clean events (with `date`); item steps keep theirs.

    A search gets the category of the next click or purchase of its user's session on the same day; a search without
    a session id that of its user's next click or purchase on the same day, at most `session_gap_minutes` later;
    null if there is none. Order is event_time, then event_id. Only the same day is looked at, so that a day's rows
    never depend on the next day's: a search just before midnight may stay without a category.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    item_step = F.when(F.col("action") != "search", F.struct("event_time", "category"))
    # Newest first and looking back is a running value; looking ahead would be quadratic in a user's events.
    newest_first = [F.col("event_time").desc(), F.col("event_id").desc()]
    by_user = Window.partitionBy("date", "user_id").orderBy(*newest_first)
    by_session = Window.partitionBy("date", "user_id", "session_id").orderBy(*newest_first)
    before = (Window.unboundedPreceding, -1)
    seen = events.withColumn("_next", F.last(item_step, ignorenulls=True).over(by_user.rowsBetween(*before)))
    seen = seen.withColumn(
        "_next_in_session", F.last(item_step, ignorenulls=True).over(by_session.rowsBetween(*before))
    )
    gap = F.unix_micros("_next.event_time") - F.unix_micros("event_time")
    soon = F.when(gap <= session_gap_minutes * 60_000_000, F.col("_next.category"))
    led_to = F.when(F.col("session_id").isNull(), soon).otherwise(F.col("_next_in_session.category"))
    category = F.when(F.col("action") == "search", led_to).otherwise(F.col("category"))
    return seen.withColumn("category", category).drop("_next", "_next_in_session")
