"""How systems are compared, and the paper's experiments."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ml.baselines.recformer_settings import RecformerSettings
from ml.baselines.settings import BaselineSettings
from ml.section import Positive, Section

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
