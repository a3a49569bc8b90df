"""Which days of the tables may go (settings `retention.log_days`, `retention.night_days`)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from ml.retention.removal import Removal, size_of
from ml.settings import Settings
from ml.warehouse import Warehouse

LOG = ("interactions", "rejected_interactions", "query_daily")
NIGHTS = ("user_histories", "generations", "recommendations", "realised", "night_health")
MADE_LISTS = ("user_histories", "generations")
"""What lineage reads of the day on which a list was made that later nights carried on."""


def first_kept_day(newest: str, days: int) -> str:
    """Return the first of the `days` days that end with `newest`; 0 days: all of them."""
    return (date.fromisoformat(newest) - timedelta(days=days - 1)).isoformat() if days else ""


def first_log_day(settings: Settings, newest: str) -> str:
    """Return the first day of the log that is kept when `newest` is its newest."""
    return max(settings.start_date, first_kept_day(newest, settings.retention.log_days))


def kept_nights(settings: Settings, warehouse: Warehouse) -> list[str]:
    """Return the days whose `recommendations` stay."""
    days = warehouse.days("recommendations")
    return [day for day in days if day >= first_kept_day(days[-1], settings.retention.night_days)]


def old_partitions(settings: Settings, warehouse: Warehouse, listed_on: Iterable[str]) -> list[Removal]:
    """Return the partitions that are older than the settings keep them; days count back from the newest of
    `interactions` or of `recommendations`.

    `listed_on` are the days on which the lists that stay were made: what made them stays too.
    """
    needed, found = set(listed_on), []
    for tables, setting in ((LOG, "log_days"), (NIGHTS, "night_days")):
        days = getattr(settings.retention, setting)
        newest = warehouse.days("interactions" if tables is LOG else "recommendations")[-1:]
        if not days or not newest:
            continue
        first = first_kept_day(newest[0], days)
        for table in tables:
            for day in warehouse.days(table):
                if day < first and not (table in MADE_LISTS and day in needed):
                    folder = Path(warehouse.location(table, date=day))
                    size = size_of(folder) if folder.is_dir() else None  # else a store holds it
                    why = f"before {first} (retention.{setting}: {days})"
                    remove = partial(warehouse.remove, table, date=day)
                    found.append(Removal("partition", f"{table}/date={day}", why, size, remove))
    return found
