"""What exists: one module per stage, every asset a thin wrapper that reads tables, calls `ml` and publishes."""

import warnings

import dagster as dg

warnings.filterwarnings("ignore", category=dg.BetaWarning)  # backfill policies are beta in name only
warnings.filterwarnings(
    "ignore", message="(Asset job|Job) .* materializes assets with varying BackfillPolicies"
)  # on purpose


def all_assets() -> list[dg.AssetsDefinition]:
    """Return every asset, without partitions: `pipelines.partitions` gives them those."""
    from assets import (
        evaluation,
        experiments,
        health,
        language_model,
        log,
        memory,
        prompts,
        ranking,
        recommendations,
        retrieval,
        sequences,
    )

    modules = [
        log, sequences, memory, prompts, language_model, retrieval, ranking, recommendations, health, evaluation,
        experiments,
    ]  # fmt: skip
    return [asset for asset in dg.load_assets_from_modules(modules) if isinstance(asset, dg.AssetsDefinition)]


def all_asset_checks() -> list[dg.AssetChecksDefinition]:
    """Return every asset check."""
    from assets import checks, health

    return [*dg.load_asset_checks_from_modules([checks]), *health.health_checks()]
