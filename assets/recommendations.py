"""The night's output: `generations`, `recommendations`, and how yesterday's table did, `realised`."""

from collections import Counter
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from assets.common import PREVIEW_ROWS, NightlyConfig, chosen_categories, scope_of, table_metadata
from assets.define import asset
from assets.plots import log_probabilities_figure, newest_days, plots, realised_figure, sources_figure
from assets.tracking import code_version, fit_tags, settings_hash
from ml.measure import timed
from ml.models.registry import ModelRegistry
from ml.settings import Settings
from ml.spark import SparkSource
from ml.warehouse import Warehouse


def _models(*names: str) -> list[dg.AssetDep]:
    """Every partition of these models: which one serves a category is decided when it runs."""
    return [dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping()) for name in names]


@asset(
    group_name="recommendations",
    deps=[
        *("user_histories", "item_codes", "query_daily", "query_vectors", "catalog", "base_model"),
        *_models("adapter", "ranker"),
    ],
)
def generations(
    context: dg.AssetExecutionContext,
    config: NightlyConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    spark: dg.ResourceParam[SparkSource],
) -> dg.MaterializeResult:
    """What the language model writes for the most active customers: an item of the shelf, and a title."""
    from ml.log import available_items
    from ml.memory import memory_as_of
    from ml.models.champions import require_champion
    from ml.night.generating import CategoryNight
    from ml.night.parts import Part, most_active
    from ml.night.serving import answers_are_read
    from ml.night.shelf import shelf

    day = context.partition_key
    categories = chosen_categories(config, settings)
    with timed() as cost:
        histories = Part.open(warehouse, "user_histories", date=day)
        available = available_items(warehouse, day, settings.recommendations.available_days)
        memory = memory_as_of(warehouse, warehouse.read("query_vectors"), settings.memory, day)
        nights, kept = {}, dict[str, dict[str, Any]]()
        for category in categories:
            scope = scope_of(settings, warehouse, category)
            adapter = require_champion(registry, "adapter", scope)
            items = shelf(settings, warehouse, day, category, available)
            night = CategoryNight(settings, warehouse, day, category, histories, items, memory, adapter, spark)
            nights[category] = night
            if answers_are_read(settings, registry, scope):
                kept[category] = night.unchanged()
            else:
                context.log.info(f"{category}: nobody is asked, the ranker of {scope!r} found answers of no use")
        chosen = most_active(histories, list(kept), settings.generation.max_users, kept)
        published, totals, seconds = [], Counter[str](), 0.0
        for category in categories:
            night = nights[category].write(chosen.get(category, ()), kept.get(category, {}))
            published.append(warehouse.publish("generations", night.rows, date=day, category=category))
            totals.update(written=night.written, unchanged=night.kept, failed_closed=night.failed)
            seconds += night.seconds
            context.log.info(
                f"{category}: {night.written} written, {night.kept} unchanged, {night.failed} failed closed "
                f"({night.written / max(night.seconds, 1e-9):.2f} users/s)"
            )
    answers = warehouse.read("generations", date=day)
    return dg.MaterializeResult(
        metadata={
            **table_metadata(published, answers, cost),
            **totals,
            "users_per_second": round(totals["written"] / max(seconds, 1e-9), 2),
            **plots(log_probabilities=log_probabilities_figure(answers["log_probability"])),
        }
    )


@asset(
    group_name="recommendations",
    deps=[
        *("generations", "user_histories", "catalog", "query_daily", "query_vectors"),
        *_models("title_encoder", "title_index", "item_embeddings", "id_index", "ranker"),
    ],
)
def recommendations(
    context: dg.AssetExecutionContext,
    config: NightlyConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
    spark: dg.ResourceParam[SparkSource],
) -> dg.MaterializeResult:
    """The best K items for every active customer; checked whole before anyone can read them."""
    from ml.log import available_items
    from ml.night.lists_on_spark import night_frame
    from ml.night.night_lists import NightTask, customers_by_source, night_rows, writer_of
    from ml.night.promises import promises
    from ml.night.serving import serving_versions
    from ml.night.shelf import shelf

    day = context.partition_key
    categories = chosen_categories(config, settings)
    with timed() as cost:
        available = available_items(warehouse, day, settings.recommendations.available_days)
        published, sources = [], Counter[str]()
        for category in categories:
            writer = writer_of(warehouse, day, category)
            versions = serving_versions(registry, scope_of(settings, warehouse, category), writer)
            items = shelf(settings, warehouse, day, category, available)
            task = NightTask.open(settings, warehouse, day, category, items, versions)
            checks, levels = promises(settings, items, day), {"date": day, "category": category}
            if settings.recommendations.executors == "spark":
                with night_frame(spark.session, task) as frame:
                    published.append(warehouse.publish_frame("recommendations", frame, checks=checks, **levels))
            else:
                rows = night_rows(task, warehouse)
                published.append(warehouse.publish("recommendations", rows, checks=checks, **levels))
            made = customers_by_source(warehouse.files("recommendations", **levels))
            sources.update(made)
            context.log.info(f"{category}: {made} customers over {len(items.items)} items")
    return dg.MaterializeResult(
        metadata={
            **table_metadata(published, warehouse.head("recommendations", PREVIEW_ROWS, date=day), cost),
            **{f"customers_{source}": count for source, count in sorted(sources.items())},
            **plots(customers_by_source=sources_figure(sources)),
            "code_version": code_version(),
            "settings_hash": settings_hash(settings),
        }
    )


@asset(
    group_name="recommendations",
    deps=[
        "interactions",
        dg.AssetDep("recommendations", partition_mapping=dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)),
    ],
)
def realised(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult:
    """How the tables published for the day before did against what was bought on this day, category by category."""
    from ml.evaluation import realised as realised_rows
    from ml.tables import TABLES

    day = context.partition_key
    yesterday = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
    with timed() as cost:
        events = warehouse.read("interactions", ["user_id", "item_id", "action", "category"], date=day)
        bought = events.filter(pc.field("action") == "purchase")
        parts = [TABLES["realised"].schema.empty_table()]
        for category in settings.categories:
            if not warehouse.exists("recommendations", date=yesterday, category=category):
                context.log.info(f"{category}: no table was published for {yesterday}, so nothing can be scored")
                continue
            purchases = bought.filter(pc.field("category") == category).select(["user_id", "item_id"])
            buyers = pc.field("user_id").isin(purchases["user_id"].combine_chunks())
            lists = warehouse.read("recommendations", where=buyers, date=yesterday, category=category)
            parts.append(realised_rows(lists, purchases, settings.evaluation, settings.recommendations.k, category))
        rows = pa.concat_tables(parts)
        published = warehouse.publish("realised", rows, date=day)
    days = newest_days(warehouse.days("realised"), day)
    history = pa.concat_tables([_with_date(warehouse.read("realised", date=shown), shown) for shown in days])
    recall = plots(recall_by_day=realised_figure(history, settings.recommendations.k))
    values = {
        f"{row['category']}/{row['metric']}": row["value"]
        for row in rows.to_pylist()
        if row["source"] == "all" and row["value"] is not None
    }
    if values:
        with registry.run("realised", "all", tags=fit_tags(context, day, yesterday), params={"date": day}) as run:
            run.metrics(values)
    return dg.MaterializeResult(metadata={**table_metadata([published], rows, cost), **values, **recall})


def _with_date(rows: pa.Table, day: str) -> pa.Table:
    return rows.append_column("date", pa.array([day] * rows.num_rows, pa.string()))
