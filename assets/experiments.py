"""The paper's ablations, zero-shot and low-resource runs, a partition each (paper 5.3, 5.4)."""

import json
from collections.abc import Iterator

import dagster as dg

from assets.common import newest_day, table_metadata
from assets.define import multi_asset
from assets.tracking import fit_tags
from ml.measure import timed
from ml.models.registry import ModelRegistry
from ml.settings import Settings
from ml.warehouse import Warehouse

_TABLES = {
    "experiment_metrics": "Metrics of one experiment and their difference from the base experiment.",
    "experiment_ranks": "Ranks of one experiment per example.",
}
_ALL = dg.AllPartitionMapping()
_READ = [dg.AssetDep(name, partition_mapping=_ALL) for name in ("training_sequences", "query_title_pairs")]


@multi_asset(
    name="experiments",
    specs=[dg.AssetSpec(name, deps=_READ, description=description) for name, description in _TABLES.items()],
    group_name="evaluation",
)
def experiments(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> Iterator[dg.MaterializeResult]:
    """Run one experiment: a small difference over the defaults, with its interval and its difference from `base`."""
    from ml.experiments import experiments as all_experiments
    from ml.experiments import made_from
    from ml.experiments.running import run_experiment

    experiment = next(e for e in all_experiments(settings) if e.name == context.partition_key)
    changes = {
        name: value
        for name, value in vars(experiment).items()
        if name in ("prompts", "lists", "titles", "share", "category")
    }
    params = {**settings.experiments.model_dump(), **changes}
    tags = fit_tags(context, newest_day(warehouse), "")
    with timed() as cost, registry.run("experiment", experiment.name, tags=tags, params=params) as run:
        labels = {
            "changes": json.dumps(changes),
            "made_from": made_from(settings, warehouse, experiment),
            "run_id": run.run_id,
        }
        tables = run_experiment(settings, warehouse, experiment, run, labels)
    for name, rows in tables.items():
        published = warehouse.publish(name, rows, experiment=experiment.name)
        yield dg.MaterializeResult(asset_key=name, metadata=table_metadata([published], rows, cost))
