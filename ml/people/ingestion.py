"""Customers of the suppression list, left out of raw rows before anything else is done with them."""

# No `from __future__ import annotations`: Spark reads the inner function's type hints as objects.
from typing import TYPE_CHECKING

from ml.log.raw import LINE, UNREAD
from ml.people.suppression import Suppression

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def without_suppressed(rows: "DataFrame", suppression: Suppression) -> "DataFrame":
    """Return the rows with a `user_id` that are of no suppressed customer; of a raw frame, its broken lines too.

    Ids are compared by keyed hash in Spark's Python workers: no id and no key stands in a query plan.
    """
    if not suppression:
        return rows
    import pandas as pd
    from pyspark.sql import functions as F

    def kept(users: pd.Series, unread: pd.Series, lines: pd.Series) -> pd.Series:
        known = {user: suppression.holds(user) for column in (users, unread) for user in column.dropna().unique()}
        out = [
            known.get(user, False) or known.get(stray, False) or suppression.holds_line(line)
            for user, stray, line in zip(users, unread, lines, strict=True)
        ]
        return ~pd.Series(out, index=users.index, dtype=bool)

    test = F.pandas_udf(kept, "boolean")  # pyright: ignore[reportCallIssue, reportArgumentType]
    nothing = F.lit(None).cast("string")
    unread, line = (F.col(UNREAD)["user_id"], F.col(UNREAD)[LINE]) if UNREAD in rows.columns else (nothing, nothing)
    return rows.filter(test(F.col("user_id"), unread, line))
