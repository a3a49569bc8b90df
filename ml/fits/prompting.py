"""Prompts for training, for a night and for an evaluation: the same builder, the memory always as-of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ml.errors import HemlineError
from ml.fits.examples import read_examples, train_under_both_splits
from ml.prompts import PromptBuilder, build_prompts, sample_examples, tokenizer_fingerprint
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptTools:
    """A tokenizer, its item codes and the builder that uses both."""

    model_folder: Path
    tokenizer: PreTrainedTokenizerBase
    codes: pa.Table
    builder: PromptBuilder


def prompt_tools(settings: Settings, warehouse: Warehouse, categories: Sequence[str]) -> PromptTools:
    """Return the prompt tools for items of `categories`; raises HemlineError if their codes are not assigned."""
    from ml.language_model import load_tokenizer, prepare_base_model

    model = settings.language_model
    folder = prepare_base_model(model.base_model, model.revision, settings.models_folder)
    tokenizer = load_tokenizer(folder)
    items = warehouse.read("catalog")
    items = items.filter(pc.field("category").isin(list(categories)))
    codes = warehouse.read("item_codes")
    codes = codes.filter(pc.field("tokenizer") == tokenizer_fingerprint(tokenizer))
    codes = codes.filter(pc.field("item_id").isin(items["item_id"].combine_chunks()))  # typed, even where it is empty
    if items.num_rows and not codes.num_rows:
        raise HemlineError(f"no item codes for the tokenizer of {model.base_model!r}: materialise `item_codes`")
    return PromptTools(folder, tokenizer, codes, PromptBuilder(tokenizer, items, codes, settings.prompts))


def example_prompts(
    settings: Settings,
    warehouse: Warehouse,
    tools: PromptTools,
    examples: pa.Table,
    variant: Literal["all", "purchases_only"] | None = None,
) -> pa.Table:
    """Return the prompts of training or test examples, with the memory as of the day before each target."""
    from ml.memory import memory_for_examples

    memory = {}
    if settings.prompts.max_memory_products and variant != "purchases_only":
        requests = examples.select(["example_id", "category", "query", "target_date"])
        requests = requests.filter(pc.field("query").is_valid())
        memory = memory_for_examples(warehouse, warehouse.read("query_vectors"), settings.memory, requests)
    return build_prompts(tools.builder, examples, memory, settings.prompts, settings.seed, variant=variant)


def training_prompts(settings: Settings, warehouse: Warehouse, categories: Sequence[str]) -> pa.Table:
    """Return the training and validation prompts of one model partition: seeded samples of the eligible examples."""
    examples = read_examples(warehouse, categories)
    fit = train_under_both_splits(examples)
    train = sample_examples(fit, "temporal", ["train"], settings.prompts.max_train, settings.seed)
    validation = sample_examples(examples, "temporal", ["validation"], settings.prompts.max_validation, settings.seed)
    tools = prompt_tools(settings, warehouse, categories)
    return example_prompts(settings, warehouse, tools, pa.concat_tables([train, validation]))
