"""What every fitted model is tagged with, so that a version can be traced to its run, its data and its code."""

from datetime import date
from functools import cache
from importlib.metadata import version

import dagster as dg


def fit_tags(context: dg.AssetExecutionContext, as_of: str, fitted_until: date | str) -> dict[str, str]:
    """Return the tags of a model fitted in this run: newest day it could use and newest day it did use among them."""
    return {
        "as_of": as_of,
        "fitted_until": str(fitted_until),
        "dagster_run_id": context.run_id,
        "partition": context.partition_key,
        "code_version": code_version(),
    }


@cache
def code_version() -> str:
    """Return the installed version of Hemline."""
    return version("hemline")
