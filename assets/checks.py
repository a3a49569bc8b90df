"""Asset checks: the promises of the published tables, looked at again where people look."""

import dagster as dg

from ml.settings import Settings
from ml.warehouse import Warehouse, parquet_views

_DAY_TAGS = "dagster/asset_partition_range_end", "dagster/partition"
"""Where a run says which day, or the last of which days, it makes."""


def checked_day(context: dg.AssetCheckExecutionContext, warehouse: Warehouse, table: str) -> str | None:
    """Return the day of this run if it is published (of a range, its last), else the newest published day."""
    days = warehouse.days(table)
    own = next((context.run.tags[tag] for tag in _DAY_TAGS if tag in context.run.tags), None)
    return own if own in days else days[-1] if days else None


@dg.asset_check(
    asset="recommendations",
    description="K items per customer, ranks 1..K, no duplicates, every item available on the day, nothing from later.",
)
def lists_keep_their_promises(
    context: dg.AssetCheckExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.AssetCheckResult:
    """Look at every category of the run's day."""
    from ml.log import available_items
    from ml.night.promises import broken_promises, list_length
    from ml.night.shelf import shelf

    day = checked_day(context, warehouse, "recommendations")
    if day is None:
        return dg.AssetCheckResult(passed=False, metadata={"day": "none"})
    available = available_items(warehouse, day, settings.recommendations.available_days)
    broken: dict[str, int] = {}
    for category in warehouse.level_values("recommendations", "category", date=day):
        items = shelf(settings, warehouse, day, category, available)
        files = warehouse.files("recommendations", date=day, category=category)
        for promise, count in broken_promises(files, items, day, list_length(settings, items)).items():
            broken[f"{category}: {promise}"] = count
    return dg.AssetCheckResult(passed=not broken, metadata={"day": day, **broken})


@dg.asset_check(
    asset="recommendations",
    description="Every customer active on the day has a list in every category with an available item.",
)
def every_active_customer_has_a_list(
    context: dg.AssetCheckExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.AssetCheckResult:
    """Compare the customers of the day's histories with those of each category's lists."""
    from ml.log import available_items
    from ml.night.promises import customers_missing

    day = checked_day(context, warehouse, "recommendations")
    if day is None:
        return dg.AssetCheckResult(passed=False, metadata={"day": "none"})
    histories = warehouse.files("user_histories", date=day)
    available = available_items(warehouse, day, settings.recommendations.available_days)
    missing = {}
    for category in warehouse.level_values("recommendations", "category", date=day):
        if not available.get(category):
            continue
        missing[category] = customers_missing(
            histories, warehouse.files("recommendations", date=day, category=category)
        )
    return dg.AssetCheckResult(
        passed=not any(missing.values()), metadata={"day": day, **{f"missing {c}": n for c, n in missing.items()}}
    )


@dg.asset_check(asset="interactions", description="The day holds only events of that day, each once.")
def events_belong_to_their_day(
    context: dg.AssetCheckExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.AssetCheckResult:
    """Look for events of other days and repeated ids."""
    day = checked_day(context, warehouse, "interactions")
    if day is None:
        return dg.AssetCheckResult(passed=False, metadata={"day": "none"})
    rows = warehouse.read("interactions", ["event_id", "event_time"], date=day)
    zone = settings.log.zone
    strays = sum(t.astimezone(zone).date().isoformat() != day for t in rows["event_time"].to_pylist())
    repeated = rows.num_rows - len(set(rows["event_id"].to_pylist()))
    return dg.AssetCheckResult(
        passed=not strays and not repeated, metadata={"day": day, "strays": strays, "repeated": repeated}
    )


@dg.asset_check(asset="item_codes", description="Every item of the catalogue has one code, and no code is shared.")
def every_item_has_its_own_code(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
    """Compare catalogue and codes of the newest tokenizer."""
    codes = warehouse.read("item_codes")
    tokenizer = codes["tokenizer"][-1].as_py() if codes.num_rows else None
    own = [r for r in codes.select(["tokenizer", "item_id", "text"]).to_pylist() if r["tokenizer"] == tokenizer]
    items = set(warehouse.read("catalog", ["item_id"])["item_id"].to_pylist())
    missing = len(items - {r["item_id"] for r in own})
    shared = len(own) - len({r["text"] for r in own})
    return dg.AssetCheckResult(passed=not missing and not shared, metadata={"missing": missing, "shared": shared})


@dg.asset_check(asset="training_sequences", description="No step stands at or after its target's time.")
def no_step_from_the_future(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
    """Look at every published category."""
    late = 0
    for category in warehouse.level_values("training_sequences", "category"):
        with parquet_views(examples=warehouse.files("training_sequences", category=category)) as connection:
            row = connection.execute(
                "SELECT count(*) FROM examples "
                "WHERE list_max(list_transform(steps, lambda s: s.event_time)) >= target_time"
            ).fetchone()
        late += row[0] if row else 0
    return dg.AssetCheckResult(passed=late == 0, metadata={"examples_with_later_steps": late})
