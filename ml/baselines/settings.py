"""Settings of the neural baselines: one set for all of them, so that none is tuned more than another."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ml.section import Positive, Section, Share


class BaselineSettings(Section):
    """Size and training of GRU4Rec, SASRec, BERT4Rec and NextItNet.

    Sizes, learning rate and stopping are those of `ItemEmbeddingSettings` (CORE), so that what differs between the
    systems is the architecture. The mask share is from BERT4Rec's paper.
    """

    dim: Positive = Field(default=64, description="item vectors and hidden states; RecBole's default for SASRec")
    layers: Positive = Field(
        default=2,
        description="blocks of SASRec, BERT4Rec and NextItNet (SASRec and BERT4Rec); GRU4Rec always has one layer",
    )
    heads: Positive = Field(default=2, description="attention heads of SASRec and BERT4Rec (BERT4Rec)")
    dropout: Share = Field(default=0.2, description="SASRec for MovieLens; sparse shops may want its 0.5")
    epochs: Positive = Field(default=30, description="at most; validation usually stops earlier")
    patience: Positive = Field(default=3, description="epochs without a better validation NDCG@10 before stopping")
    batch_size: Positive = Field(default=256, description="sequences a step on average, each with all of its targets")
    learning_rate: float = Field(default=1e-3, gt=0, description="Adam; SASRec")
    max_length: Positive = Field(default=50, description="newest items a system sees; SASRec for sparse data")
    sampled_negatives: int = Field(
        default=0, ge=0, description="negatives per step; 0: all items up to full_softmax_below, else 4096"
    )
    full_softmax_below: Positive = Field(
        default=20_000, description="catalogues below this use every item as a negative, as CORE does"
    )
    logits: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="products of the full softmax; bfloat16 is faster where the processor has it (AVX-512 BF16, AMX)",
    )
    mask_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="items hidden in one cloze copy; BERT4Rec for MovieLens (0.6 for Beauty, 0.4 for Steam)",
    )
    seed: int = 0
