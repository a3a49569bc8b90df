"""The query-product memory (paper 4.2): `query_daily`, `query_vectors`, `query_memory`."""

from collections.abc import Sequence

import dagster as dg

from assets.common import newest_day, preview_metadata, table_metadata
from assets.define import asset
from assets.plots import plots, products_figure
from assets.ranges import DaysInChunks, all_publications, tell_days
from ml.finished_days import FinishedDays
from ml.measure import timed
from ml.settings import Settings
from ml.spark import SparkSource
from ml.warehouse import Warehouse


@asset(group_name="memory", deps=["interactions"], backfill_policy=dg.BackfillPolicy.single_run())
def query_daily(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    spark: dg.ResourceParam[SparkSource],
) -> dg.MaterializeResult:
    """What each query led to, day by day: clicks, purchases, organic positions; a range goes by chunks."""
    from ml import sequences
    from ml.code import code_fingerprint

    def inputs(some: Sequence[str]) -> dict[str, str]:
        return {day: "/".join([code_fingerprint(), *warehouse.content("interactions", date=day)]) for day in some}

    with timed() as cost:
        days, made = list(context.partition_keys), []
        finished = FinishedDays(settings.work_folder / "ranges" / "query_daily.json", warehouse, ["query_daily"])
        for chunk in DaysInChunks(context, days, settings.log.chunk_days, finished, inputs):
            frame = sequences.query_daily(warehouse.frame(spark.session, "interactions", days=chunk))
            made += warehouse.publish_days("query_daily", frame, chunk)
        made = all_publications(warehouse, "query_daily", days, made)
    tell_days(context, "query_daily", made, preview_metadata(made, warehouse.read("query_daily", date=days[-1])))
    return dg.MaterializeResult(metadata=table_metadata(made, None, cost))


@asset(group_name="memory", deps=["interactions"])
def query_vectors(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult:
    """A vector for every query ever seen, by the memory's text encoder; only new queries are encoded."""
    from ml.memory import append_vectors, load_text_encoder
    from ml.queries import distinct_queries

    with timed() as cost:
        existing = warehouse.read("query_vectors") if warehouse.exists("query_vectors") else None
        known = existing.num_rows if existing is not None else 0
        encoder = load_text_encoder(settings.memory.encoder, settings.memory.batch_size)
        vectors = append_vectors(existing, distinct_queries(warehouse), encoder)
        published = warehouse.publish("query_vectors", vectors)
    context.log.info(f"{vectors.num_rows - known} new queries encoded")
    return dg.MaterializeResult(
        metadata={
            **table_metadata([published], vectors.select(["encoder", "query"]), cost),
            "new_queries": vectors.num_rows - known,
        }
    )


@asset(group_name="memory", deps=["query_daily", "query_vectors"])
def query_memory(
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult:
    """The newest day's memory, for people and for serving; any older day is rebuilt from `query_daily`."""
    from ml.memory import memory_as_of

    with timed() as cost:
        day = newest_day(warehouse)
        vectors = warehouse.read("query_vectors")
        memory = memory_as_of(warehouse, vectors, settings.memory, day).table(day)
        published = warehouse.publish("query_memory", memory)
    products = plots(products_per_query=products_figure(memory["items"]))
    return dg.MaterializeResult(metadata={**table_metadata([published], memory, cost), **products})
