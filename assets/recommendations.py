"""The night's output: `generations`, `recommendations`, and how yesterday's table did, `realised`."""

from collections import Counter
from datetime import date, timedelta

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from assets.common import NightlyConfig, chosen_categories, scope_of, table_metadata
from assets.define import asset
from assets.plots import log_probabilities_figure, newest_days, plots, realised_figure, sources_figure
from ml.measure import timed
from ml.registry import ModelRegistry
from ml.settings import Settings
from ml.warehouse import Warehouse


@asset(
    group_name="recommendations",
    deps=[
        "user_histories",
        "item_codes",
        "query_daily",
        "query_vectors",
        "catalog",
        dg.AssetDep("adapter", partition_mapping=dg.AllPartitionMapping()),
    ],
)
def generations(
    context: dg.AssetExecutionContext,
    config: NightlyConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult:
    """What the language model writes for the most active customers: an item of the shelf, and a title."""
    from ml.log import available_items
    from ml.memory import memory_as_of
    from ml.recommend.generating import choose_users, write_night
    from ml.recommend.serving import require_champion, shelf

    day = context.partition_key
    categories = chosen_categories(config, settings)
    with timed() as cost:
        histories = warehouse.read("user_histories", date=day)
        chosen = choose_users(histories, categories, settings.generation.max_users)
        available = available_items(warehouse, day, settings.recommendations.available_days)
        memory = memory_as_of(warehouse, warehouse.read("query_vectors"), settings.memory, day)
        published, totals, seconds = [], Counter[str](), 0.0
        for category in categories:
            adapter = require_champion(registry, "adapter", scope_of(settings, warehouse, category))
            items = shelf(settings, warehouse, day, category, available)
            night = write_night(settings, warehouse, day, category, chosen[category], items, memory, adapter)
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
        "generations",
        "user_histories",
        "catalog",
        dg.AssetDep("title_index", partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep("id_index", partition_mapping=dg.AllPartitionMapping()),
    ],
)
def recommendations(
    context: dg.AssetExecutionContext,
    config: NightlyConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult:
    """The best K items for every active customer, by mixup; checked whole before anyone can read them."""
    from ml.log import available_items
    from ml.recommend.nightly import night_lists
    from ml.recommend.promises import promises
    from ml.recommend.serving import load_serving_models, shelf

    day = context.partition_key
    categories = chosen_categories(config, settings)
    with timed() as cost:
        available = available_items(warehouse, day, settings.recommendations.available_days)
        published, sources = [], Counter[str]()
        for category in categories:
            models = load_serving_models(registry, scope_of(settings, warehouse, category))
            items = shelf(settings, warehouse, day, category, available)
            lists = night_lists(settings, warehouse, day, category, items, models)
            published.append(
                warehouse.publish(
                    "recommendations",
                    lists.batches,
                    checks=promises(settings, items, day),
                    date=day,
                    category=category,
                )
            )
            sources.update(lists.customers)
            context.log.info(f"{category}: {dict(lists.customers)} customers over {len(items.items)} items")
    return dg.MaterializeResult(
        metadata={
            **table_metadata(published, warehouse.read("recommendations", date=day), cost),
            **{f"customers_{source}": count for source, count in sorted(sources.items())},
            **plots(customers_by_source=sources_figure(sources)),
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
    config: NightlyConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult:
    """How the table published for the day before did against what was bought on this day."""
    from ml.evaluation import realised as realised_rows
    from ml.tables import TABLES

    day = context.partition_key
    yesterday = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
    with timed() as cost:
        events = warehouse.read("interactions", ["user_id", "item_id", "action", "category"], date=day)
        bought = events.filter(pc.field("action") == "purchase")
        parts = [TABLES["realised"].schema.empty_table()]
        for category in chosen_categories(config, settings):
            if not warehouse.exists("recommendations", date=yesterday, category=category):
                context.log.info(f"{category}: no table was published for {yesterday}, so nothing can be scored")
                continue
            table = warehouse.read("recommendations", date=yesterday, category=category)
            purchases = bought.filter(pc.field("category") == category).select(["user_id", "item_id"])
            parts.append(realised_rows(table, purchases, settings.evaluation, settings.recommendations.k, category))
        rows = pa.concat_tables(parts)
        published = warehouse.publish("realised", rows, date=day)
    days = newest_days(warehouse.days("realised"), day)
    history = pa.concat_tables([_with_date(warehouse.read("realised", date=shown), shown) for shown in days])
    recall = plots(recall_by_day=realised_figure(history, settings.recommendations.k))
    return dg.MaterializeResult(metadata={**table_metadata([published], rows, cost), **recall})


def _with_date(rows: pa.Table, day: str) -> pa.Table:
    return rows.append_column("date", pa.array([day] * rows.num_rows, pa.string()))
