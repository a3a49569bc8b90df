"""Who gets what: the ranker of the sources' lists, the lists, and which model may make them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ml.baselines.settings import BaselineSettings
from ml.section import Positive, Section, Share


class RankerSettings(Section):
    """The model that fuses the sources' lists; chosen on fashion data's validation part (docs/log.md)."""

    examples: Positive = Field(
        default=10_000, description="validation examples per category that it is fitted on (docs/log.md)"
    )
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
        default=100, description="with fewer, the ranker begins at its sources' own order (docs/log.md)"
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
    executors: Literal["none", "spark"] = Field(
        default="none", description="spark: a night's lists over Spark's executors, a few thousand customers a task"
    )
