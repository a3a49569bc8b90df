"""Tiny random models of four real families as snapshots, prompts to learn, and settings that take a second."""

import datetime

import numpy as np
import pyarrow as pa
import torch
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ml.settings import LanguageModelSettings
from ml.tables import TABLES

VOCABULARY = 200
FAMILIES = ("falcon", "falcon_alibi", "llama", "gpt_neox", "qwen2")


def tiny_model(family, layers=2, seed=0, hidden=32):
    """A random model, by default of hidden size 32."""
    torch.manual_seed(seed)
    common = dict(vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4)
    if family.startswith("falcon"):
        return FalconForCausalLM(FalconConfig(**common, alibi=family == "falcon_alibi")).eval()
    if family == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**common, intermediate_size=64)).eval()
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[family]
    return model(config(**common, intermediate_size=64, num_key_value_heads=2)).eval()


def snapshot(folder, family="llama", layers=2, seed=0, hidden=32):
    """The model saved as a snapshot folder."""
    tiny_model(family, layers, seed, hidden).save_pretrained(folder)
    return folder


def prompts(count, seed=0, longest=24):
    """Prompts whose response says the input's first tokens again: something to learn."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        ids = random.integers(3, VOCABULARY, random.integers(4, longest)).tolist()
        rows.append(
            {
                "example_id": f"e{number:04d}",
                "user_id": f"u{number % 7}",
                "category": "Clothing",
                "target_item": "i",
                "target_date": datetime.date(2026, 1, 1),
                "temporal_split": "train",
                "leave_one_out_split": "train",
                "variant": "all",
                "input_ids": ids,
                "response_ids": [*ids[: random.integers(1, 4)], 2],
                "text": "",
                "response": "",
            }
        )
    return pa.Table.from_pylist(rows, schema=TABLES["prompts"].schema)


def quick(**changes):
    """Settings under which a tiny model learns something in a few steps."""
    values = dict(
        lora_r=4, lora_alpha=8, learning_rate=0.02, epochs=2, batch_size=4, save_steps=3, hard_share=0.25, hard_epochs=2
    )
    return LanguageModelSettings(**{**values, **changes})


class Recorder:
    """Takes metrics as a tracked run does."""

    def __init__(self):
        self.values = []

    def metric(self, name, value, step=None):
        self.values.append((name, value, step))
