"""Every setting of Hemline, in one typed model; `pipelines.settings` reads it from profiles, YAML and the environment.

A default that comes from the paper names its section; the others say why they are what they are.
"""

from ml.settings.evaluation import EvaluationSettings, ExperimentSettings, MoreSystem
from ml.settings.language_model import GenerationSettings, LanguageModelSettings, PromptSettings
from ml.settings.log import CatalogColumns, LogSettings, MemorySettings, SequenceSettings
from ml.settings.operations import (
    HealthSettings,
    ObjectStoreSettings,
    PrivacySettings,
    RetentionSettings,
    SparkSettings,
)
from ml.settings.recommendations import PromotionSettings, RankerSettings, RecommendationSettings
from ml.settings.retrieval import IndexSettings, ItemEmbeddingSettings, TitleEncoderSettings
from ml.settings.shop import OTHER, POOLED, Settings, names_a_partition

__all__ = [
    "OTHER",
    "POOLED",
    "CatalogColumns",
    "EvaluationSettings",
    "ExperimentSettings",
    "GenerationSettings",
    "HealthSettings",
    "IndexSettings",
    "ItemEmbeddingSettings",
    "LanguageModelSettings",
    "LogSettings",
    "MemorySettings",
    "MoreSystem",
    "ObjectStoreSettings",
    "PrivacySettings",
    "PromotionSettings",
    "PromptSettings",
    "RankerSettings",
    "RecommendationSettings",
    "RetentionSettings",
    "SequenceSettings",
    "Settings",
    "SparkSettings",
    "TitleEncoderSettings",
    "names_a_partition",
]
