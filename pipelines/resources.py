"""The resources of a code location, made from its settings; each is light until it is used."""

from typing import Any

from ml.models.registry import ModelRegistry
from ml.settings import Settings
from ml.spark import SparkSource
from ml.warehouse import open_warehouse


def resources(settings: Settings) -> dict[str, Any]:
    """Return the resources by the names that assets ask for."""
    return {
        "settings": settings,
        "warehouse": open_warehouse(settings),
        "registry": model_registry(settings),
        "spark": SparkSource(settings.spark),
    }


def tracking_uri(settings: Settings) -> str:
    """Return MLflow's address: the setting, else SQLite under `home`."""
    return settings.tracking_uri or f"sqlite:///{settings.home / 'mlflow.db'}"


def model_registry(settings: Settings) -> ModelRegistry:
    """Return the model registry."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return ModelRegistry(tracking_uri(settings), settings.home / "mlflow-artifacts", settings.home / "models-cache")
