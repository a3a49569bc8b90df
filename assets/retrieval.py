"""Retrieval models (paper 4.4): `title_encoder`, `title_index`, `item_embeddings`, `id_index`."""

import dagster as dg

from assets.common import TrainConfig, as_of_day, scope_categories
from assets.define import asset
from assets.plots import epochs_figure, plots
from assets.tracking import fit_tags, judged
from ml.measure import timed
from ml.models.registry import ModelRegistry
from ml.settings import Settings
from ml.warehouse import Warehouse


@asset(group_name="retrieval", deps=["query_title_pairs"])
def title_encoder(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult:
    """The LSTM that puts queries and the titles bought from them close together; promoted if it is not worse."""
    from ml.fits.fitting import fit_title_encoder
    from ml.fits.gate import consider
    from ml.fits.trials import title_trial

    scope = context.partition_key
    categories = scope_categories(settings, warehouse, scope)
    if not categories:
        return dg.MaterializeResult(metadata={"note": f"no model of its own for {scope!r}"})
    tags = fit_tags(context, as_of_day(config, warehouse), "")
    with (
        timed() as cost,
        registry.run("title_encoder", scope, tags=tags, params=settings.title_encoder.model_dump()) as run,
    ):
        fitted = fit_title_encoder(settings, warehouse, categories, settings.work_folder / "title_encoder" / scope, run)
        version = run.register(fitted.folder, fitted_until=fitted.fitted_until, encoder=fitted.kind)
        decision = consider(registry, run, version, title_trial(settings, warehouse, categories), settings)
    return dg.MaterializeResult(
        metadata={
            **judged(context, version, decision),
            "encoder": fitted.kind,
            "pairs": fitted.examples,
            "fitted_until": fitted.fitted_until,
            **cost.metadata(),
        }
    )


@asset(group_name="retrieval", deps=["title_encoder", "catalog"])
def title_index(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult:
    """A faiss index of every catalogue title by the encoder in use; recall is measured where it is not exact."""
    from ml.fits.fitting import build_title_index
    from ml.fits.gate import follow
    from ml.retrieval import VectorIndex

    scope = context.partition_key
    encoder = registry.champion("title_encoder", scope)
    if encoder is None:
        return dg.MaterializeResult(metadata={"note": f"no title encoder for {scope!r}"})
    categories = scope_categories(settings, warehouse, scope)
    tags = fit_tags(context, as_of_day(config, warehouse), encoder.fitted_until or "")
    with timed() as cost, registry.run("title_index", scope, tags=tags, params=settings.index.model_dump()) as run:
        index, folder = build_title_index(
            settings, warehouse, categories, encoder.folder, settings.work_folder / "title_index" / scope
        )
        version = run.register(folder, title_encoder_version=encoder.version)
        decision = follow(registry, run, version, VectorIndex.load)
    return dg.MaterializeResult(
        metadata={
            **judged(context, version, decision),
            "items": len(index.ids),
            "kind": index.kind,
            "recall_at_10": index.recall,
            **cost.metadata(),
        }
    )


@asset(group_name="retrieval", deps=["training_sequences"])
def item_embeddings(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult:
    """CORE, trained with every item step as a target; its item table is what the mixup looks ids up in."""
    from ml.fits.fitting import fit_item_embeddings
    from ml.fits.gate import consider
    from ml.fits.trials import core_trial

    scope = context.partition_key
    categories = scope_categories(settings, warehouse, scope)
    if not categories:
        return dg.MaterializeResult(metadata={"note": f"no model of its own for {scope!r}"})
    tags = fit_tags(context, as_of_day(config, warehouse), "")
    with (
        timed() as cost,
        registry.run("item_embeddings", scope, tags=tags, params=settings.item_embeddings.model_dump()) as run,
    ):
        work = settings.work_folder / "item_embeddings" / scope
        fitted = fit_item_embeddings(settings, warehouse, categories, work, run)
        version = run.register(fitted.folder, fitted_until=fitted.fitted_until)
        decision = consider(registry, run, version, core_trial(settings, warehouse, categories), settings)
    measured = registry.client.get_metric_history(version.run_id, "validation_ndcg_at_10")  # none without validation
    epochs = epochs_figure([(point.step, point.value) for point in measured], "validation NDCG@10")
    return dg.MaterializeResult(
        metadata={
            **judged(context, version, decision),
            "items": fitted.examples,
            "fitted_until": fitted.fitted_until,
            **cost.metadata(),
            **plots(validation=epochs),
        }
    )


@asset(group_name="retrieval", deps=["item_embeddings"])
def id_index(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult:
    """A faiss index of the item table of the CORE in use."""
    from ml.fits.fitting import build_id_index
    from ml.fits.gate import follow
    from ml.retrieval import VectorIndex

    scope = context.partition_key
    embeddings = registry.champion("item_embeddings", scope)
    if embeddings is None:
        return dg.MaterializeResult(metadata={"note": f"no item embeddings for {scope!r}"})
    tags = fit_tags(context, as_of_day(config, warehouse), embeddings.fitted_until or "")
    with timed() as cost, registry.run("id_index", scope, tags=tags, params=settings.index.model_dump()) as run:
        index, folder = build_id_index(settings, embeddings.folder, settings.work_folder / "id_index" / scope)
        version = run.register(folder, item_embeddings_version=embeddings.version)
        decision = follow(registry, run, version, VectorIndex.load)
    return dg.MaterializeResult(
        metadata={
            **judged(context, version, decision),
            "items": len(index.ids),
            "kind": index.kind,
            "recall_at_10": index.recall,
            **cost.metadata(),
        }
    )
