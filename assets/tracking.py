"""What every fitted model is tagged with, so that a version can be traced to its run, its data and its code."""

import hashlib
from datetime import date
from functools import cache
from importlib.metadata import version as installed_version
from typing import Any

import dagster as dg

from ml.models.promotion import Decision
from ml.models.version import ModelVersion
from ml.settings import Settings


def fit_tags(context: dg.AssetExecutionContext, as_of: str, fitted_until: date | str) -> dict[str, str]:
    """Return the tags of a model fitted in this run: newest day it could use and newest day it did use among them."""
    return {
        "as_of": as_of,
        "fitted_until": str(fitted_until),
        "dagster_run_id": context.run_id,
        "partition": context.partition_key,
        "code_version": code_version(),
    }


def judged(context: dg.AssetExecutionContext, version: ModelVersion, decision: Decision) -> dict[str, Any]:
    """Return the metadata of a registered version and of what became of it; a refusal is logged as a warning."""
    say = context.log.warning if decision.verdict == "refused" else context.log.info
    say(f"{version.kind} {version.version} for {version.scope!r} {decision.verdict}: {decision.reason}")
    return {
        "version": version.version,
        "mlflow_run": version.run_id,
        "promotion": decision.verdict,
        "promotion_reason": decision.reason,
        **decision.numbers(),
    }


def settings_hash(settings: Settings) -> str:
    """Return a short hash of every setting but the places and addresses, which change nothing that is computed."""
    places = {
        *("raw_log", "catalog", "warehouse", "home", "report"),
        *("tracking_uri", "dagster_storage", "spark", "privacy"),
    }
    return hashlib.sha256(settings.model_dump_json(exclude=places).encode()).hexdigest()[:12]


@cache
def code_version() -> str:
    """Return the installed version of Hemline."""
    return installed_version("hemline")
