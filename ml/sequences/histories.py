"""`user_histories`: what each active customer did up to a day, for the night's recommendations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml.sequences.steps import STEP_FIELDS, category_steps, first_day_of_window
from ml.settings import OTHER, SequenceSettings
from ml.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def active_users(interactions: DataFrame, day: str, active_days: int) -> DataFrame:
    """Return `user_id, recent_events` of everybody with an event in the `active_days` days that end with `day`.

    Every event counts, of any category and of none, whatever `sequences.actions` says.
    """
    from pyspark.sql import functions as F

    window = F.col("date").between(first_day_of_window(day, active_days), day)
    return interactions.where(window).groupBy("user_id").agg(F.count("*").cast("int").alias("recent_events"))


def user_histories(interactions: DataFrame, settings: SequenceSettings, day: str, active_days: int) -> DataFrame:
    """Return the `user_histories` table: a row per active customer and category with any step up to the end of `day`.

    The steps are those an example bought right after the day would show: newest `max_steps`, without clicks on items
    the customer has bought, unless `click_filter` is `none`. An active customer without a step in any category, whose
    searches led to nothing, has one row without steps in the category `other`: everybody active is in the table.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    steps = category_steps(interactions, settings, day).select("category", "user_id", *STEP_FIELDS)
    active = active_users(interactions, day, active_days)
    steps = steps.join(active, "user_id")
    if settings.click_filter != "none":
        same_item = Window.partitionBy("category", "user_id", "item_id")
        bought = F.max(F.col("action") == "purchase").over(same_item)
        steps = steps.withColumn("bought", bought).where((F.col("action") != "click") | ~F.col("bought"))
    newest_first = Window.partitionBy("category", "user_id").orderBy(F.desc("event_time"), F.desc("event_id"))
    newest = steps.withColumn("age", F.row_number().over(newest_first)).where(F.col("age") <= settings.max_steps)
    histories = newest.groupBy("category", "user_id").agg(
        F.sort_array(F.collect_list(F.struct(*STEP_FIELDS))).alias("steps"),
        F.sum((F.col("action") != "search").cast("int")).cast("int").alias("item_steps"),
        F.first("recent_events").alias("recent_events"),
    )
    nothing = active.join(histories.select("user_id").distinct(), "user_id", "left_anti").select(
        F.lit(OTHER).alias("category"),
        "user_id",
        F.array().cast(histories.schema["steps"].dataType).alias("steps"),
        F.lit(0).alias("item_steps"),
        "recent_events",
    )
    return histories.select(*TABLES["user_histories"].names).unionByName(nothing)
