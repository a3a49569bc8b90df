"""Ingestion: the raw log and the catalogue as a shop keeps them, made into clean tables (design: input contract)."""

from ml.log.arrivals import RawState, raw_states
from ml.log.availability import available_items
from ml.log.catalog import build_catalog, catalog_report, read_catalog
from ml.log.clean import check_reject_share, clean
from ml.log.inputs import inputs_of_days
from ml.log.propose import propose_settings
from ml.log.raw import days_made_from, partition_window, raw_days, read_raw

__all__ = [
    "RawState",
    "available_items",
    "build_catalog",
    "catalog_report",
    "check_reject_share",
    "clean",
    "days_made_from",
    "inputs_of_days",
    "partition_window",
    "propose_settings",
    "raw_days",
    "raw_states",
    "read_catalog",
    "read_raw",
]
