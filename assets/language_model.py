"""The language model (paper 4.3): `base_model` and its `adapter`, trained on the prompts of one model partition."""

from collections.abc import Iterator

import dagster as dg

from assets.common import TrainConfig, as_of_day, figure_markdown, table_metadata
from assets.define import asset, multi_asset
from assets.tracking import fit_tags, judged
from ml.measure import timed
from ml.models.registry import ModelRegistry
from ml.settings import Settings
from ml.warehouse import Warehouse


@asset(group_name="language_model")
def base_model(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """The pinned local snapshot of the base language model: safetensors weights, configuration, tokenizer."""
    from ml.language_model import prepare_base_model, snapshot_fingerprint

    with timed() as cost:
        model = settings.language_model
        folder = prepare_base_model(model.base_model, model.revision, settings.models_folder)
    return dg.MaterializeResult(
        metadata={
            "base_model": model.base_model,
            "fingerprint": snapshot_fingerprint(folder),
            "bytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
            "path": dg.MetadataValue.path(str(folder)),
            **cost.metadata(),
        }
    )


@multi_asset(
    name="adapter",
    specs=[
        dg.AssetSpec(
            "adapter",
            deps=["prompts", "base_model"],
            description="LoRA weights, registered; promoted if they are not worse.",
        ),
        dg.AssetSpec("prompt_perplexity", deps=["prompts"], description="How surprised the model was by each prompt."),
    ],
    group_name="language_model",
)
def adapter(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> Iterator[dg.MaterializeResult]:
    """Fine-tune the base model with LoRA or QLoRA, then longer on the prompts it finds hardest."""
    from ml.fits.answers import example_answers
    from ml.fits.gate import consider
    from ml.fits.trials import adapter_trial
    from ml.language_model import fit_adapter, number_type, plot_losses, prepare_base_model, slow_fit

    scope = context.partition_key
    if not warehouse.exists("prompts", category=scope):
        note = {"note": f"no model of its own for {scope!r}: it uses the pooled one, or has no prompts"}
        yield dg.MaterializeResult(asset_key="adapter", metadata=note)
        yield dg.MaterializeResult(asset_key="prompt_perplexity", metadata=note)
        return
    rows = warehouse.read("prompts", category=scope)
    train, validation = (
        rows.filter([split == wanted for split in rows["temporal_split"].to_pylist()])
        for wanted in ("train", "validation")
    )
    model = settings.language_model
    if slow := slow_fit(train, model):
        context.log.warning(slow)
    folder = prepare_base_model(model.base_model, model.revision, settings.models_folder)
    tags = fit_tags(context, as_of_day(config, warehouse), fitted_until=max(train["target_date"].to_pylist()))
    with timed() as cost, registry.run("adapter", scope, tags=tags, params=model.model_dump()) as run:
        result = fit_adapter(folder, train, validation, model, settings.work_folder / "adapter" / scope, run)
        figure = plot_losses(result.losses, result.validation)
        run.figure(figure, "loss.png")
        run.table(result.perplexity, "prompt_perplexity.json")
        run.text(example_answers(settings, warehouse, result.folder, validation), "example_generations.md")
        version = run.register(result.folder, base_model=model.base_model, base_folder=folder.name)
        decision = consider(registry, run, version, adapter_trial(settings, folder, validation), settings)
    published = warehouse.publish("prompt_perplexity", result.perplexity, category=scope)
    yield dg.MaterializeResult(
        asset_key="adapter",
        metadata={
            **judged(context, version, decision),
            "training_prompts": train.num_rows,
            "tokens": result.tokens,
            "tokens_per_second": round(result.tokens / max(result.seconds, 1e-9), 1),
            "validation_loss": result.validation_loss,
            "dtype": number_type(model),
            **cost.metadata(),
            "losses": figure_markdown(figure),
        },
    )
    yield dg.MaterializeResult(
        asset_key="prompt_perplexity",
        metadata=table_metadata([published], result.perplexity, cost),
    )
