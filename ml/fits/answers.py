"""The language model's answers to held-out purchases, by the champion or by any adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from ml.fits.prompting import example_prompts, prompt_tools
from ml.language_model import number_type
from ml.models.champions import require_champion
from ml.settings import Settings
from ml.warehouse import Warehouse

EXAMPLES = 8
"""Answers that people are shown of a fit."""

if TYPE_CHECKING:
    from ml.generation import Generated
    from ml.models.registry import ModelRegistry


def answer_examples(
    settings: Settings,
    warehouse: Warehouse,
    registry: ModelRegistry,
    category: str,
    scope: str,
    examples: pa.Table,
    variant: Literal["all", "purchases_only"],
) -> dict[str, Generated]:
    """Return the champion's answers to the examples' prompts, by example_id.

    Any item of the category's catalogue may be named; an item of None failed its constraint.
    """
    adapter = require_champion(registry, "adapter", scope)
    folder = settings.work_folder / "evaluation" / category / "answers"
    label = f"{adapter.scope} {adapter.version}"
    return answers_of(settings, warehouse, adapter.folder, label, category, examples, variant, folder)


def answers_of(
    settings: Settings,
    warehouse: Warehouse,
    adapter: Path,
    label: str,
    category: str,
    examples: pa.Table,
    variant: Literal["all", "purchases_only"],
    folder: Path,
) -> dict[str, Generated]:
    """Return an adapter's answers to the examples' prompts, by example_id, as `answer_examples` does.

    `label` names the adapter: finished chunks are kept in `folder` under it.
    """
    from ml.generation import CodeTrie, generate_in_chunks
    from ml.language_model import load_adapted_model

    tools = prompt_tools(settings, warehouse, [category])
    prompts = example_prompts(settings, warehouse, tools, examples, variant)
    trie = CodeTrie.build(tools.codes["code"], tools.codes["item_id"].to_pylist())
    model = load_adapted_model(tools.model_folder, adapter, settings.language_model)
    answers = generate_in_chunks(
        model,
        tools.tokenizer,
        prompts["input_ids"].to_pylist(),
        tools.builder.instruction_ids,
        trie,
        tools.builder.format,
        settings.generation,
        prompts["example_id"].to_pylist(),
        folder,
        f"{tools.model_folder.name} {label} {number_type(settings.language_model)}",
    )
    return dict(zip(prompts["example_id"].to_pylist(), answers, strict=True))


def example_answers(settings: Settings, warehouse: Warehouse, adapter_folder: Path, prompts: pa.Table) -> str:
    """Return, as text for people, what an adapter answers to a few validation prompts beside what was bought."""
    from ml.generation import CodeTrie, generate
    from ml.language_model import load_adapted_model

    rows = prompts.slice(0, EXAMPLES)
    if not rows.num_rows:
        return "no validation prompts\n"
    tools = prompt_tools(settings, warehouse, sorted(set(rows["category"].to_pylist())))
    trie = CodeTrie.build(tools.codes["code"], tools.codes["item_id"].to_pylist())
    model = load_adapted_model(tools.model_folder, adapter_folder, settings.language_model)
    answers = generate(
        model, tools.tokenizer, rows["input_ids"].to_pylist(), tools.builder.instruction_ids, trie,
        tools.builder.format, settings.generation, rows["example_id"].to_pylist(),
    )  # fmt: skip
    lines = [
        f"bought: {bought}\nwrote:  {answer.item_id} | {answer.title}\n"
        for bought, answer in zip(rows["response"].to_pylist(), answers, strict=True)
    ]
    return "\n".join(lines)
