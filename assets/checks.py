"""Asset checks: the promises of the published tables, looked at again where people look."""

import dagster as dg

from ml.settings import Settings
from ml.warehouse import Warehouse


@dg.asset_check(asset="recommendations", description="Ranks 1..K, no duplicates, K per customer, nothing from later.")
def lists_keep_their_promises(
    settings: dg.ResourceParam[Settings], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Check the newest published day."""
    from ml.recommend.promises import broken_promises

    days = warehouse.days("recommendations")
    broken: dict[str, int] = {}
    for category in warehouse.level_values("recommendations", "category", date=days[-1]) if days else []:
        folder = warehouse.folder("recommendations", date=days[-1], category=category)
        for promise, count in broken_promises(folder, None, days[-1], None).items():
            broken[f"{category}: {promise}"] = count
    return dg.AssetCheckResult(
        passed=bool(days) and not broken, metadata={"day": days[-1] if days else "none", **broken}
    )


@dg.asset_check(
    asset="recommendations",
    description="Every customer active on the newest day has a list in every category with an available item.",
)
def every_active_customer_has_a_list(
    settings: dg.ResourceParam[Settings], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Compare the customers of the newest day's histories with those of each category's lists."""
    from ml.log import available_items

    days = warehouse.days("recommendations")
    if not days:
        return dg.AssetCheckResult(passed=False, metadata={"day": "none"})
    active = set(warehouse.read("user_histories", ["user_id"], date=days[-1])["user_id"].to_pylist())
    available = available_items(warehouse, days[-1], settings.recommendations.available_days)
    missing = {}
    for category in warehouse.level_values("recommendations", "category", date=days[-1]):
        if not available.get(category):
            continue
        rows = warehouse.read("recommendations", ["user_id"], date=days[-1], category=category)
        missing[category] = len(active - set(rows["user_id"].to_pylist()))
    return dg.AssetCheckResult(
        passed=not any(missing.values()), metadata={"day": days[-1], **{f"missing {c}": n for c, n in missing.items()}}
    )


@dg.asset_check(asset="interactions", description="The newest day holds only events of that day, each once.")
def events_belong_to_their_day(
    settings: dg.ResourceParam[Settings], warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Look for events of other days and repeated ids."""
    days = warehouse.days("interactions")
    rows = warehouse.read("interactions", ["event_id", "event_time"], date=days[-1])
    zone = settings.log.zone
    strays = sum(t.astimezone(zone).date().isoformat() != days[-1] for t in rows["event_time"].to_pylist())
    repeated = rows.num_rows - len(set(rows["event_id"].to_pylist()))
    return dg.AssetCheckResult(
        passed=not strays and not repeated, metadata={"day": days[-1], "strays": strays, "repeated": repeated}
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
    import duckdb

    late = 0
    with duckdb.connect() as connection:
        for category in warehouse.level_values("training_sequences", "category"):
            folder = str(warehouse.folder("training_sequences", category=category)).replace("'", "''")
            row = connection.execute(
                f"SELECT count(*) FROM read_parquet('{folder}/*.parquet', hive_partitioning=false) "
                "WHERE list_max(list_transform(steps, lambda s: s.event_time)) >= target_time"
            ).fetchone()
            late += row[0] if row else 0
    return dg.AssetCheckResult(passed=late == 0, metadata={"examples_with_later_steps": late})
