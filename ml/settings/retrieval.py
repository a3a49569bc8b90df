"""The title encoder, the item embeddings, and the indexes of both."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ml.section import Positive, Section, Share


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
