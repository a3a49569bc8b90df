"""The cleaned log and the catalogue: `interactions`, `rejected_interactions`, `catalog` (design: input contract)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from assets.common import newest_day, preview_metadata, table_metadata
from assets.define import asset, multi_asset
from assets.plots import events_figure, newest_days, plots
from assets.ranges import DaysInChunks, all_publications, tell_days
from ml.errors import BadInputError
from ml.finished_days import FinishedDays
from ml.measure import timed
from ml.settings import Settings
from ml.spark import SparkSource, cached
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@multi_asset(
    name="interactions",
    specs=[
        dg.AssetSpec("interactions", description="Clean events with their category, one partition a day."),
        dg.AssetSpec("rejected_interactions", description="Raw rows that broke the contract, whole, with the reason."),
    ],
    group_name="log",
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def interactions(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    spark: dg.ResourceParam[SparkSource],
) -> Iterator[dg.MaterializeResult]:
    """Clean the days of this run: day D is made from the raw partitions D−1 … D+`late_days`, and writes only D.

    A range goes by chunks of `log.chunk_days`, in one Spark session: a run that was killed goes on where it was.
    """
    from ml.log import check_reject_share, clean, inputs_of_days, partition_window, raw_days, read_raw
    from ml.people.ingestion import without_suppressed
    from ml.people.suppression import suppression_of

    tables = ("interactions", "rejected_interactions")
    with timed() as cost:
        days = _days_with_raw_partition(context, raw_days(settings.raw_log), settings)
        suppression = suppression_of(settings)
        if suppression:
            context.log.info(f"without the {len(suppression.hashes)} customers who are forgotten")
        finished = FinishedDays(settings.work_folder / "ranges" / "interactions.json", warehouse, tables)
        chunks = DaysInChunks(
            context, days, settings.log.chunk_days, finished, lambda some: inputs_of_days(settings, warehouse, some)
        )
        made, refused = [], []
        with cached(_known_items(settings, warehouse, spark)) as (items,):
            for chunk in chunks:
                raw = read_raw(spark.session, settings.raw_log, partition_window(chunk, settings.log.late_days))
                raw = without_suppressed(raw, suppression)
                both = clean(raw, items, chunk, settings.log, settings.sequences.session_gap_minutes)
                with cached(*both) as (kept, rejected):
                    check_reject_share(kept, rejected, settings.log)
                    made += warehouse.publish_days("interactions", kept, chunk)
                    refused += warehouse.publish_days("rejected_interactions", rejected, chunk)
        made = all_publications(warehouse, "interactions", days, made)
        refused = all_publications(warehouse, "rejected_interactions", days, refused)
    newest = warehouse.read("interactions", date=days[-1])
    reasons = warehouse.read("rejected_interactions", ["source_file", "reason"], date=days[-1])
    counts = {r["values"]: r["counts"] for r in reasons["reason"].value_counts().to_pylist()}
    events = plots(events_per_day=events_figure(_events_by_day(warehouse, max(days))))
    times = {"seconds_a_day": chunks.seconds_a_day}
    tell_days(context, "interactions", made, {**preview_metadata(made, newest), **events, **times})
    tell_days(
        context, "rejected_interactions", refused, {**preview_metadata(refused, reasons), "reasons_newest_day": counts}
    )
    yield dg.MaterializeResult(asset_key="interactions", metadata=table_metadata(made, None, cost))
    yield dg.MaterializeResult(asset_key="rejected_interactions", metadata=table_metadata(refused, None, cost))


@asset(group_name="log", deps=["interactions"])
def catalog(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    spark: dg.ResourceParam[SparkSource],
) -> dg.MaterializeResult:
    """Every item ever listed: title, category, attributes, first and last event, the listing's own availability."""
    from ml.log import build_catalog, catalog_report, read_catalog

    with timed() as cost:
        session = spark.session
        day = newest_day(warehouse)
        what = settings.catalog, settings.catalog_columns, settings.categories
        listing, met = read_catalog(session, *what), catalog_report(session, *what)
        previous = warehouse.frame(session, "catalog") if warehouse.exists("catalog") else None
        frame = build_catalog(
            listing, previous, warehouse.frame(session, "interactions"), day, warehouse.days("interactions")[0]
        )
        published = warehouse.publish_frame("catalog", frame)
    left_out = {name: met[name] for name in ("malformed_lines", "unusable_ids", "conflicting_items") if met[name]}
    if left_out:
        context.log.warning(f"{settings.catalog}: not every row became an item: {left_out}")
    items = warehouse.read("catalog")
    per_category = {r["values"]: r["counts"] for r in items["category"].value_counts().to_pylist()}
    return dg.MaterializeResult(
        metadata={**table_metadata([published], items, cost), "items_per_category": per_category, "listing": met}
    )


def _known_items(settings: Settings, warehouse: Warehouse, spark: SparkSource) -> "DataFrame":
    """Return every item's category: of the listing, and of items that left it, which still have a past."""
    from ml.log import read_catalog

    items = read_catalog(spark.session, settings.catalog, settings.catalog_columns, settings.categories)
    items = items.select("item_id", "category")
    if not warehouse.exists("catalog"):
        return items
    gone = warehouse.frame(spark.session, "catalog").select("item_id", "category")
    return items.unionByName(gone.join(items, "item_id", "left_anti"))


def _events_by_day(warehouse: Warehouse, last: str) -> dict[str, dict[str, int]]:
    """Count events by action on the newest days up to `last`: one small column is read, a day at a time."""
    counts = {}
    for day in newest_days(warehouse.days("interactions"), last):
        actions = warehouse.read("interactions", ["action"], date=day)["action"].value_counts()
        counts[day] = {row["values"]: row["counts"] for row in actions.to_pylist()}
    return counts


def _days_with_raw_partition(context: dg.AssetExecutionContext, raw: list[str], settings: Settings) -> list[str]:
    """Return the run's days; one asked for alone must have its raw partition, in a range gaps are warned of."""
    asked = list(context.partition_keys)
    missing = sorted(set(asked) - set(raw))
    if missing and len(missing) == len(asked):
        known = f"{raw[0]} … {raw[-1]}" if raw else "none"
        raise BadInputError(
            f"{settings.raw_log / f'event_date={missing[0]}'}: no such raw partition; there are: {known}. "
            "Deliver the day's partition, or choose another day."
        )
    if missing:
        context.log.warning(f"{len(missing)} day(s) without a raw partition are published empty: {missing[:5]} …")
    return asked
