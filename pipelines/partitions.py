"""Which assets are made per day and which per model; the others are whole tables."""

import dagster as dg

from ml.settings import POOLED, Settings

DAILY = frozenset(
    {
        "interactions",
        "rejected_interactions",
        "query_daily",
        "user_histories",
        "generations",
        "recommendations",
        "realised",
    }
)
PER_MODEL = frozenset(
    {
        "training_sequences",
        "query_title_pairs",
        "prompts",
        "adapter",
        "prompt_perplexity",
        "title_encoder",
        "title_index",
        "item_embeddings",
        "id_index",
        "ranker",
        "evaluation_metrics",
        "evaluation_ranks",
        "evaluation_differences",
        "evaluation_breakdowns",
        "evaluation_costs",
        "evaluation_lists",
    }
)


def day_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition per day in the shop's own time zone, from the log's first day to yesterday."""
    return dg.DailyPartitionsDefinition(start_date=settings.start_date, timezone=settings.log.time_zone)


def model_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """One partition per category, and one for the models that small categories share."""
    return dg.StaticPartitionsDefinition([*settings.categories, POOLED])


def with_partitions(assets: list[dg.AssetsDefinition], settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the assets with the partitions that these settings give them."""
    days, models = day_partitions(settings), model_partitions(settings)

    def partitioned(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name in DAILY:
            return spec.replace_attributes(partitions_def=days)
        return spec.replace_attributes(partitions_def=models) if name in PER_MODEL else spec

    return [asset.map_asset_specs(partitioned) for asset in assets]
