"""Whether last night's table is there and like those before it: `night_health`, its history, and the checks on it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from assets.common import table_metadata
from assets.define import asset
from ml.days import last_ended_day
from ml.health.signs import SIGNS, Numbers, Sign
from ml.measure import timed
from ml.settings import HealthSettings, Settings
from ml.warehouse import Warehouse

PRESENT = "last_night_is_there"
"""The check that is asked for by the clock and not by a night: a night that did not run checks nothing."""


@asset(group_name="recommendations", deps=["recommendations", "realised"])
def night_health(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult:
    """Who was covered, how lists were made, how far they moved and how they did: numbers that Dagster plots by day."""
    from ml.health import night_numbers

    day = context.partition_key
    with timed() as cost:
        before = max((d for d in warehouse.days("recommendations") if d < day), default=None)
        rows = night_numbers(warehouse, day, before, settings.categories)
        published = warehouse.publish("night_health", rows, date=day)
    numbers = {
        f"{r['category']} {r['metric']}": r["value"]
        for r in rows.to_pylist()
        if r["source"] == "all" and r["value"] is not None
    }
    return dg.MaterializeResult(metadata={**table_metadata([published], rows, cost), **numbers})


def read_numbers(warehouse: Warehouse, day: str) -> Numbers:
    """Return a published night's numbers, without those that could not be told."""
    return {
        (r["category"], r["source"], r["metric"]): (r["value"], r["customers"])
        for r in warehouse.read("night_health", date=day).to_pylist()
        if r["value"] is not None
    }


def health_checks() -> list[dg.AssetChecksDefinition]:
    """Return a check for every sign, on the newest night; each says what it compared, and where there is no history."""
    return [last_night_is_there, *(_check(name, sign) for name, sign in SIGNS.items())]


def _check(name: str, sign: Sign) -> dg.AssetChecksDefinition:
    @dg.asset_check(name=name, asset="night_health", description=sign.__doc__)
    def check(settings: dg.ResourceParam[Settings], warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
        days = warehouse.days("night_health")
        if not days:
            return dg.AssetCheckResult(passed=False, description="no night has been published yet")
        return _result(sign, warehouse, days, settings.health)

    return check


def _result(sign: Sign, warehouse: Warehouse, days: list[str], settings: HealthSettings) -> dg.AssetCheckResult:
    compared_with = days[:-1][-settings.history_days :]
    found = sign(read_numbers(warehouse, days[-1]), [read_numbers(warehouse, d) for d in compared_with], settings)
    said = list(found.problems)
    if found.without_history:
        said.append(
            f"no usual to compare with, fewer than {settings.min_history} days before: "
            f"{', '.join(found.without_history)}"
        )
    metadata: Mapping[str, Any] = {"day": days[-1], "days_before": len(compared_with), **found.compared}
    return dg.AssetCheckResult(passed=found.passed, description="; ".join(said) or None, metadata=metadata)


@dg.asset_check(
    name=PRESENT, asset="recommendations", description="The day that ended last has a table in every category."
)
def last_night_is_there(
    settings: dg.ResourceParam[Settings], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Check by the shop's clock, now."""
    return check_presence(settings, warehouse, datetime.now(settings.log.zone))


def check_presence(settings: Settings, warehouse: Warehouse, now: datetime) -> dg.AssetCheckResult:
    """Fail where a category has no table of the day that ended last before `now`; say whether its raw log is there."""
    from ml.health import missing_categories

    day = last_ended_day(now, settings.log.zone)
    missing = missing_categories(warehouse, day, settings.categories)
    if not missing:
        return dg.AssetCheckResult(passed=True, metadata={"day": day})
    raw = settings.raw_log / f"event_date={day}"
    newest = max(warehouse.days("recommendations"), default="none")
    why = "the night has not run or has failed" if raw.is_dir() else f"{raw} is not there"
    return dg.AssetCheckResult(
        passed=False,
        description=f"no table of {day} for {', '.join(missing)} (newest: {newest}): {why}",
        metadata={"day": day, "newest": newest, "missing": len(missing)},
    )
