"""Ours and every other system on held-out purchases (paper section 5): metrics, ranks, differences, groups, costs."""

from collections.abc import Iterator

import dagster as dg

from assets.common import figure_markdown, model_siblings, newest_day, table_metadata
from assets.define import multi_asset
from assets.tracking import fit_tags
from ml.measure import timed
from ml.models.registry import ModelRegistry
from ml.settings import POOLED, Settings
from ml.warehouse import Warehouse

_TABLES = {
    "evaluation_metrics": "Every system's metrics with bootstrap intervals, by split and view of the log.",
    "evaluation_ranks": "Every system's rank per example.",
    "evaluation_differences": "By how much ours leads each system, with paired bootstrap intervals.",
    "evaluation_breakdowns": "Every system's metrics by length of history, search, repeat and cold start.",
    "evaluation_costs": "What each system cost: seconds, examples per second, memory.",
    "evaluation_lists": "What each system recommended for a few examples, for people to read.",
}
_READ = ["training_sequences", "query_title_pairs", dg.AssetDep("adapter", partition_mapping=dg.AllPartitionMapping())]


@multi_asset(
    name="evaluation",
    specs=[dg.AssetSpec(name, deps=_READ, description=description) for name, description in _TABLES.items()],
    group_name="evaluation",
)
def evaluation(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> Iterator[dg.MaterializeResult]:
    """Score one category's held-out purchases with every system, all fitted under one protocol.

    The tables are published after every part, so that a run cut short leaves what it finished; run again, it does
    only the rest.
    """
    from ml.comparison.comparing import CategoryComparison
    from ml.evaluation import metrics_figure

    category = context.partition_key
    if category == POOLED:
        note = {"note": "evaluated per category, whichever models serve it"}
        for name in _TABLES:
            yield dg.MaterializeResult(asset_key=name, metadata=note)
        return
    scope, siblings = model_siblings(settings, warehouse, category)
    tags = fit_tags(context, newest_day(warehouse), "")
    published, tables = {}, {}
    with (
        timed() as cost,
        registry.run("evaluation", category, tags=tags, params=settings.evaluation.model_dump()) as run,
    ):
        for tables in CategoryComparison(settings, warehouse, registry, category, scope, run, siblings).compare():
            published = {name: warehouse.publish(name, rows, category=category) for name, rows in tables.items()}
        figure = metrics_figure(tables["evaluation_metrics"], category)
        run.figure(figure, "metrics.png")
        run.table(tables["evaluation_metrics"], "metrics.json")
    for name, rows in tables.items():
        metadata = table_metadata([published[name]], rows, cost)
        drawn = {"metrics": figure_markdown(figure)} if name == "evaluation_metrics" else {}
        yield dg.MaterializeResult(asset_key=name, metadata={**metadata, **drawn})
