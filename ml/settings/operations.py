"""What keeps it running: health, retention, people's data, Spark, the object store."""

from __future__ import annotations

from pydantic import Field, SecretStr

from ml.section import Positive, Section, Share


class HealthSettings(Section):
    """When a night's table is called small, stale or drifted; shares of the usual are of the days before's median."""

    every_morning: bool = Field(
        default=True,
        description="ask every morning whether last night's table is there; off in the demo, whose log has ended",
    )
    history_days: Positive = Field(default=14, description="published days before the night that it is compared with")
    min_history: Positive = Field(default=3, description="with fewer of them there is no usual, and the check passes")
    min_users: Share = Field(default=0.8, description="customers with a list, of the usual")
    min_items: Share = Field(default=0.7, description="distinct items recommended, of the usual")
    max_carried_rise: Share = Field(default=0.25, description="share of lists of older nights, above the usual")
    max_popular_rise: Share = Field(default=0.1, description="share of lists of popular items, above the usual")
    max_model_age_days: Positive = Field(default=21, description="days since the newest event a model has seen")
    max_score_shift: float = Field(default=0.5, gt=0, description="move of the median score, in widths p10 to p90")
    min_overlap: Share = Field(default=0.3, description="items that stood in a customer's list before, of the usual")
    min_realised: Share = Field(default=0.5, description="realised recall, of the usual")
    min_buyers: Positive = Field(default=30, description="buyers below which a day's realised recall is not compared")


class RetentionSettings(Section):
    """What `hemline clean` keeps. Days of tables count back from the newest published one; 0: for ever."""

    log_days: int = Field(
        default=0,
        ge=0,
        description="days of interactions, rejected_interactions and query_daily; older ones are not fitted on either",
    )
    night_days: int = Field(
        default=0,
        ge=0,
        description="days of user_histories, generations, recommendations, realised and night_health",
    )
    champions: int = Field(
        default=3, ge=2, description="versions in use, now and before, whose files stay: how far rollback can go"
    )
    version_days: Positive = Field(default=28, description="files of versions registered since then stay in any case")
    work_days: Positive = Field(
        default=28, description="checkpoints, answers and finished comparisons untouched for longer go"
    )


class PrivacySettings(Section):
    """Customers who asked to be forgotten (`hemline forget`)."""

    key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="key of their hashes (HEMLINE_PRIVACY__KEY in the environment); None: home/people/key, made once",
    )
    retrain_days: Positive = Field(default=30, description="days until the models fitted on them must be replaced")


class SparkSettings(Section):
    """The Spark session (docs/scale.md: what a cluster's machines must share)."""

    master: str = Field(
        default="local[2]", description="local[N]: this process; else a cluster: spark://HOST:7077, yarn, …"
    )
    driver_memory: str = "4g"
    shuffle_partitions: Positive = 4
    conf: dict[str, str] = Field(
        default={}, description="any Spark settings, executors' memory, cores and GPUs among them"
    )


class ObjectStoreSettings(Section):
    """The store of a `warehouse` that is s3://bucket/folder; credentials come from the environment (AWS_*) alone."""

    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^@/?#\s]+/?$",
        description="address of a store that is not Amazon's, such as http://127.0.0.1:9000",
    )
    region: str | None = Field(default=None, description="None: AWS_DEFAULT_REGION, or what else boto3 reads")
    lease_seconds: Positive = Field(
        default=60, description="a writer of another machine that has been silent for so long is taken for dead"
    )
