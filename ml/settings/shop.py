"""Everything together: the shop's own paths, categories and dates, and all sections."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from ml.secrets import remember
from ml.section import Positive, Section
from ml.settings.evaluation import EvaluationSettings, ExperimentSettings
from ml.settings.language_model import GenerationSettings, LanguageModelSettings, PromptSettings
from ml.settings.log import CatalogColumns, LogSettings, MemorySettings, SequenceSettings
from ml.settings.operations import (
    HealthSettings,
    ObjectStoreSettings,
    PrivacySettings,
    RetentionSettings,
    SparkSettings,
)
from ml.settings.recommendations import PromotionSettings, RecommendationSettings
from ml.settings.retrieval import IndexSettings, ItemEmbeddingSettings, TitleEncoderSettings

POOLED = "all"
"""Model partition shared by every category (`scope: all`, and categories too small for their own)."""
OTHER = "other"
"""Category of items whose own category is not listed in `categories`."""


def names_a_partition(category: str) -> bool:
    """Whether a category can be a folder and a model partition of its own."""
    reserved = {"", ".", "..", POOLED, OTHER}
    return category.strip() == category and category not in reserved and not set(category) & set("/\\\n\r\t\0=")


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
    _options: str = PrivateAttr(default="")

    def model_post_init(self, context: object) -> None:
        """Make the secrets among the settings known, so that no message shows them."""
        remember(self)

    def with_options(self, options: str) -> Settings:
        """Return a copy that `command` shows with these options, such as `--settings FILE`."""
        copy = self.model_copy()
        copy._options = options
        return copy

    def command(self, words: str) -> str:
        """Return `hemline WORDS`, with the options by which it reads these settings again."""
        return f"hemline {words} {self._options}".rstrip()

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
            if not names_a_partition(name):
                raise ValueError(
                    f"category {name!r}: expected a name without '/', '\\', '=', control characters or outer spaces, "
                    f"and not '.', '..', {POOLED!r} or {OTHER!r}"
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
