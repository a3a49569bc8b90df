"""Which assets are made per day, per model and per experiment; the others are whole tables."""

from datetime import timedelta

import dagster as dg

from ml.experiments import experiments
from ml.settings import POOLED, Settings
from pipelines.jobs import EVALUATION, EXPERIMENT, FITS, LOG, NIGHT_TABLES, SEQUENCES
from pipelines.schedules import MORNING_CRON

DAILY = frozenset({*LOG, "query_daily", *NIGHT_TABLES})
PER_MODEL = frozenset({*SEQUENCES, *FITS, *EVALUATION})
PER_EXPERIMENT = frozenset(EXPERIMENT)
EVERY_NIGHT = frozenset({"interactions", *NIGHT_TABLES})
"""What must have been made since midnight when the morning comes, or Dagster shows it as not fresh."""
SINCE_MIDNIGHT = timedelta(hours=7, minutes=30)


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
        **dict.fromkeys(PER_EXPERIMENT, experiment_partitions(settings)),
    }

    fresh = dg.FreshnessPolicy.cron(MORNING_CRON, SINCE_MIDNIGHT, settings.log.time_zone)

    def partitioned(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        spec = spec.replace_attributes(partitions_def=partitions[name]) if name in partitions else spec
        return spec.replace_attributes(freshness_policy=fresh) if name in EVERY_NIGHT else spec

    return [asset.map_asset_specs(partitioned) for asset in assets]
