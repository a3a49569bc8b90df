"""Is last night's table as good as those before it? Numbers of a night, and the signs that one is not."""

from ml.health.numbers import night_numbers
from ml.health.signs import SIGNS, Finding, missing_categories

__all__ = ["SIGNS", "Finding", "missing_categories", "night_numbers"]
