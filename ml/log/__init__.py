"""Ingestion: the raw log and the catalogue as a shop keeps them, made into clean tables (design: input contract)."""

from ml.log.availability import available_items
from ml.log.catalog import build_catalog, catalog_report, read_catalog
from ml.log.clean import check_reject_share, clean
from ml.log.propose import propose_settings
from ml.log.raw import partition_window, raw_days, read_raw

__all__ = [
    "available_items",
    "build_catalog",
    "catalog_report",
    "check_reject_share",
    "clean",
    "partition_window",
    "propose_settings",
    "raw_days",
    "read_catalog",
    "read_raw",
]
