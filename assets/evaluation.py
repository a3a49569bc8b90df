"""`evaluation_metrics` and `evaluation_ranks`: ours and the references on held-out purchases (paper section 5)."""

from collections.abc import Iterator

import dagster as dg

from assets.common import figure_markdown, newest_day, scope_of, table_metadata
from assets.measure import timed
from assets.tracking import fit_tags
from ml.registry import ModelRegistry
from ml.settings import POOLED, Settings
from ml.warehouse import Warehouse


@dg.multi_asset(
    name="evaluation",
    specs=[
        dg.AssetSpec(
            "evaluation_metrics",
            deps=[
                "training_sequences",
                "query_title_pairs",
                dg.AssetDep("adapter", partition_mapping=dg.AllPartitionMapping()),
            ],
            description="Every system's metrics with bootstrap intervals, by split and view of the log.",
        ),
        dg.AssetSpec("evaluation_ranks", deps=["training_sequences"], description="Every system's rank per example."),
    ],
    group_name="evaluation",
)
def evaluation(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> Iterator[dg.MaterializeResult]:
    """Score one category's held-out purchases with every system, all fitted under one protocol."""
    from ml.evaluation import metrics_figure
    from ml.recommend.comparing import CategoryComparison

    category = context.partition_key
    if category == POOLED:
        note = {"note": "evaluated per category, whichever models serve it"}
        yield dg.MaterializeResult(asset_key="evaluation_metrics", metadata=note)
        yield dg.MaterializeResult(asset_key="evaluation_ranks", metadata=note)
        return
    scope = scope_of(settings, warehouse, category)
    tags = fit_tags(context, newest_day(warehouse), "")
    with (
        timed() as cost,
        registry.run("evaluation", category, tags=tags, params=settings.evaluation.model_dump()) as run,
    ):
        result = CategoryComparison(settings, warehouse, registry, category, scope, run).compare()
        figure = metrics_figure(result.metrics, category)
        run.figure(figure, "metrics.png")
        run.table(result.metrics, "metrics.json")
    metrics = warehouse.publish("evaluation_metrics", result.metrics, category=category)
    ranks = warehouse.publish("evaluation_ranks", result.ranks, category=category)
    yield dg.MaterializeResult(
        asset_key="evaluation_metrics",
        metadata={**table_metadata([metrics], result.metrics, cost), "metrics": figure_markdown(figure)},
    )
    yield dg.MaterializeResult(asset_key="evaluation_ranks", metadata=table_metadata([ranks], result.ranks, cost))
