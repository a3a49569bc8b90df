"""What customers did, in order: `training_sequences`, `query_title_pairs`, `user_histories` (design: sequences)."""

import dagster as dg
import pyarrow as pa

from assets.common import PREVIEW_ROWS, TrainConfig, as_of_day, table_metadata
from assets.define import asset
from assets.plots import item_steps_figure, plots
from ml.measure import timed
from ml.settings import POOLED, Settings
from ml.spark import SparkSource
from ml.warehouse import Warehouse


@asset(
    group_name="sequences",
    deps=[dg.AssetDep("interactions", partition_mapping=dg.AllPartitionMapping())],
)
def training_sequences(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    spark: dg.ResourceParam[SparkSource],
) -> dg.MaterializeResult:
    """Every purchase with the steps before it, and its splits; metadata shows the paper's Table 1 for this log."""
    from ml import sequences

    categories = _categories(context)
    if not categories:
        return dg.MaterializeResult(metadata=_PER_CATEGORY)
    with timed() as cost:
        as_of = as_of_day(config, warehouse)
        events = warehouse.frame(spark.session, "interactions", days=(settings.start_date, as_of))
        events = events.where(events.category.isin(categories))
        frame = sequences.training_sequences(events, settings.sequences, as_of, settings.log.time_zone).cache()
        published = [
            warehouse.publish_frame("training_sequences", frame.where(frame.category == c), category=c)
            for c in categories
        ]
        frame.unpersist()
    made = {c: warehouse.read("training_sequences", category=c) for c in categories}
    steps = {c: rows["item_steps"] for c, rows in made.items()}
    return dg.MaterializeResult(
        metadata={
            **table_metadata(published, made[categories[0]], cost),
            "as_of": as_of,
            "table_1": dg.MetadataValue.md(table_1_markdown(made)),
            **plots(steps_before_a_purchase=item_steps_figure(steps, settings.sequences.min_item_steps)),
        }
    )


@asset(
    group_name="sequences",
    deps=["training_sequences", "catalog"],
)
def query_title_pairs(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    spark: dg.ResourceParam[SparkSource],
) -> dg.MaterializeResult:
    """Queries and the titles bought from them: what the title encoder learns from (paper 4.4)."""
    from ml import sequences

    categories = _categories(context)
    if not categories:
        return dg.MaterializeResult(metadata=_PER_CATEGORY)
    with timed() as cost:
        items = warehouse.frame(spark.session, "catalog")
        published = []
        for category in categories:
            rows = warehouse.frame(spark.session, "training_sequences", category=category)
            pairs = sequences.query_title_pairs(rows, items)
            published.append(warehouse.publish_frame("query_title_pairs", pairs, category=category))
    preview = warehouse.read("query_title_pairs", category=categories[0])
    return dg.MaterializeResult(metadata=table_metadata(published, preview, cost))


@asset(group_name="sequences", deps=["interactions"])
def user_histories(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    spark: dg.ResourceParam[SparkSource],
) -> dg.MaterializeResult:
    """The newest steps of every active customer, up to the end of the day."""
    from ml import sequences
    from ml.night.parts import customer_count

    with timed() as cost:
        day = context.partition_key
        events = warehouse.frame(spark.session, "interactions", days=(settings.start_date, day))
        rows = sequences.user_histories(events, settings.sequences, day, settings.recommendations.active_days)
        published = warehouse.publish_frame("user_histories", rows, date=day)
    preview = warehouse.head("user_histories", PREVIEW_ROWS, date=day)
    return dg.MaterializeResult(
        metadata={
            **table_metadata([published], preview, cost),
            "active_customers": customer_count(warehouse.files("user_histories", date=day)),
        }
    )


_PER_CATEGORY = {"note": "made per category: the pooled models read the categories' own partitions"}


def _categories(context: dg.AssetExecutionContext) -> list[str]:
    return [key for key in context.partition_keys if key != POOLED]


def table_1_markdown(sequences_of: dict[str, pa.Table]) -> str:
    """Return the paper's Table 1 for these categories, as Markdown."""
    from ml.sequences import dataset_statistics

    lines = [
        "| Category | Users | Items | Interactions | Avg. length | Density | Purchases |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for category, rows in sequences_of.items():
        s = dataset_statistics(rows)
        lines.append(
            f"| {category} | {s['users']:,.0f} | {s['items']:,.0f} | {s['interactions']:,.0f} | "
            f"{s['average_length']:.2f} | {s['density']:.2e} | {rows.num_rows:,} |"
        )
    return "\n".join(lines)
