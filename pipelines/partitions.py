"""Which assets are made per day, per model and per experiment; the others are whole tables."""

import dagster as dg

from ml.experiments import experiments
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
EXPERIMENTS = frozenset({"experiment_metrics", "experiment_ranks"})


def day_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition per day in the shop's own time zone, from the log's first day to yesterday."""
    return dg.DailyPartitionsDefinition(start_date=settings.start_date, timezone=settings.log.time_zone)


def model_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """One partition per category, and one for the models that small categories share."""
    return dg.StaticPartitionsDefinition([*settings.categories, POOLED])


def experiment_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """One partition per experiment."""
    return dg.StaticPartitionsDefinition([experiment.name for experiment in experiments(settings)])


def with_partitions(assets: list[dg.AssetsDefinition], settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the assets with the partitions that these settings give them."""
    partitions = {
        **dict.fromkeys(DAILY, day_partitions(settings)),
        **dict.fromkeys(PER_MODEL, model_partitions(settings)),
        **dict.fromkeys(EXPERIMENTS, experiment_partitions(settings)),
    }

    def partitioned(spec: dg.AssetSpec) -> dg.AssetSpec:
        own = partitions.get(spec.key.to_user_string())
        return spec.replace_attributes(partitions_def=own) if own else spec

    return [asset.map_asset_specs(partitioned) for asset in assets]
