"""Which events are steps of a category's sequences, as Spark columns. No example or history is made here."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from ml.errors import BadInputError
from ml.settings import SequenceSettings
from ml.tables import STEP

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

STEP_FIELDS = [field.name for field in STEP]
"""The columns of an event that a step keeps, in the order of the struct; the first two order the steps."""


def parse_day(day: str) -> date:
    """Return an ISO day as a date; raises BadInputError with the text that is none."""
    try:
        return date.fromisoformat(day)
    except ValueError as error:
        raise BadInputError(f"day {day!r}: expected an ISO date such as '2020-09-22'") from error


def first_day_of_window(day: str, days: int) -> str:
    """Return the first of the `days` days that end with `day`."""
    return (parse_day(day) - timedelta(days=days - 1)).isoformat()


def category_steps(interactions: DataFrame, settings: SequenceSettings, day: str) -> DataFrame:
    """Return the events up to the end of `day` that are steps of some category.

    Clicks and purchases, and the searches that joined a category; with `actions: purchases_only` purchases alone, and
    these without the query and position they came from, since a log of purchases would know neither.
    """
    from pyspark.sql import functions as F

    parse_day(day)
    steps = interactions.where((F.col("date") <= day) & F.col("category").isNotNull() & _complete())
    if settings.actions == "purchases_only":
        steps = steps.where(F.col("action") == "purchase")
        steps = steps.withColumn("query", F.lit(None).cast("string")).withColumn("position", F.lit(None).cast("int"))
    return steps


def _complete() -> Column:
    from pyspark.sql import functions as F

    is_search = (F.col("action") == "search") & F.col("query").isNotNull()
    return is_search | (F.col("action").isin("click", "purchase") & F.col("item_id").isNotNull())
