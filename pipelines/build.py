"""One way to the definitions: the UI, the command line and the tests all call `build_definitions`."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import all_asset_checks, all_assets
from ml.settings import Settings
from pipelines.clean import clean_job
from pipelines.console import console_logger
from pipelines.jobs import jobs
from pipelines.partitions import with_partitions
from pipelines.resources import resources
from pipelines.schedules import schedules
from pipelines.sensors import sensors
from pipelines.settings import load_settings


def build_definitions(
    settings: Settings | None = None, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Return the definitions for `settings` (default: the effective ones), with resources replaced where asked."""
    settings = settings or load_settings().settings
    made = [*jobs(), clean_job()]
    return dg.Definitions(
        assets=with_partitions(all_assets(), settings),
        asset_checks=all_asset_checks(),
        jobs=made,
        schedules=schedules(settings),
        sensors=sensors(settings, made),
        resources={**resources(settings), **(resource_overrides or {})},
        executor=dg.in_process_executor,  # a Spark session and a model are loaded once per run, not once per step
        loggers={"console": console_logger},
    )
