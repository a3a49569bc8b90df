"""A Python function over a Spark column of text."""

# No `from __future__ import annotations`: Spark reads the inner function's type hints as objects.
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column


def map_text(function: Callable[[str | None], str], text: "Column") -> "Column":
    """Return `function` of every value of `text`, nulls included; each distinct text of a batch is computed once."""
    import pandas as pd
    from pyspark.sql import functions as F

    def mapped(texts: pd.Series) -> pd.Series:
        return texts.map({text: function(text) for text in texts.unique()})

    return F.pandas_udf(mapped, "string")(text)  # pyright: ignore[reportCallIssue, reportArgumentType]
