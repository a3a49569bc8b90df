"""What searches led to: daily counts of query-item pairs, and the pairs of query and bought title."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def query_daily(interactions: DataFrame) -> DataFrame:
    """Return the `query_daily` table with its `date`: clicks, purchases and positions of items that came from a query.

    A query counts for the category of the item it led to. `position_sum / positions` is the mean organic position.
    """
    from pyspark.sql import functions as F

    led_to_item = interactions.where(
        F.col("action").isin("click", "purchase")
        & F.col("query").isNotNull()
        & F.col("item_id").isNotNull()
        & F.col("category").isNotNull()
    )
    counts = led_to_item.groupBy("date", "category", "query", "item_id").agg(
        F.count_if(F.col("action") == "click").alias("clicks"),
        F.count_if(F.col("action") == "purchase").alias("purchases"),
        F.count("position").alias("positions"),
        F.coalesce(F.sum("position"), F.lit(0)).cast("long").alias("position_sum"),
    )
    return counts.select("date", *TABLES["query_daily"].names)


def query_title_pairs(sequences: DataFrame, catalog: DataFrame) -> DataFrame:
    """Return the `query_title_pairs` table with its `category` (paper 4.4): queries and the titles bought from them.

    From every row of `training_sequences`, eligible or not, whose purchase names its query (`target_query`); the
    current `query` of a row is no pair, since most purchases after a search of the same visit do not come from it.
    """
    from pyspark.sql import functions as F

    titles = catalog.select(F.col("item_id").alias("target_item"), "title")
    pairs = sequences.where(F.col("target_query").isNotNull()).join(titles, "target_item")
    renamed = pairs.select(
        "category",
        F.col("example_id").alias("event_id"),
        F.col("target_query").alias("query"),
        F.col("target_item").alias("item_id"),
        "title",
        F.col("target_date").alias("date"),
        "temporal_split",
        "leave_one_out_split",
    )
    return renamed.select("category", *TABLES["query_title_pairs"].names)
