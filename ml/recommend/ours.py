"""Our system's rank for a held-out purchase: the model's answer, then the full mixup ranking (paper 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from ml.recommend.prompting import example_prompts, prompt_tools
from ml.recommend.serving import require_champion
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.evaluation import ItemExamples
    from ml.generation import Generated
    from ml.recommend.fitting import TitleVectors
    from ml.registry import ModelRegistry
    from ml.retrieval import Core


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
        f"{tools.model_folder.name} {label} {settings.language_model.dtype}",
    )
    return dict(zip(prompts["example_id"].to_pylist(), answers, strict=True))


def rank_answers(
    answers: Mapping[str, Generated],
    examples: ItemExamples,
    core: Core,
    titles: TitleVectors,
    items: Sequence[str],
    title_vectors: np.ndarray,
    n: int,
    available: Callable[[str], Collection[str]] | None = None,
) -> np.ndarray:
    """Return float64 [n]: each target's rank in the full mixup ranking of the candidates, NaN where it is none.

    The id list is by CORE's item table around the named item, which leads it; items that CORE does not know follow
    by title only. Where the constraint failed, the newest item of the history stands in for the answer.
    `title_vectors` [items, dim] are those of `items`.
    """
    from ml.retrieval import mixup_rank

    row_of = {item: row for row, item in enumerate(items)}
    ranks = np.full(len(examples), np.nan)
    scored = _scored(answers, examples, core, titles, items, title_vectors, available)
    for i, (chosen, by_id, by_title) in enumerate(scored):
        row = row_of.get(examples.targets[i], -1)
        target_row = int(np.searchsorted(chosen, row))
        if target_row < len(chosen) and chosen[target_row] == row:
            ranks[i] = mixup_rank(target_row, by_id, by_title, n)
    return ranks


def list_answers(
    answers: Mapping[str, Generated],
    examples: ItemExamples,
    core: Core,
    titles: TitleVectors,
    items: Sequence[str],
    title_vectors: np.ndarray,
    n: int,
    k: int,
) -> dict[str, list[str]]:
    """Return, by example_id, the first `k` items of the mixup that `rank_answers` ranks; ties in the items' order."""
    from ml.retrieval import mixup

    lists = {}
    scored = _scored(answers, examples, core, titles, items, title_vectors, None)
    for example, (_, by_id, by_title) in zip(examples.example_ids, scored, strict=True):
        known = int((by_id > -np.inf).sum())
        ids = np.argsort(-by_id, kind="stable")[: min(known, n + k)]
        ordered = np.argsort(-by_title, kind="stable")[: n + k]
        named, titled = ([items[int(i)] for i in rows] for rows in (ids, ordered))
        lists[example] = [item for item, _ in mixup(named, titled, n, k)]
    return lists


def _scored(
    answers: Mapping[str, Generated],
    examples: ItemExamples,
    core: Core,
    titles: TitleVectors,
    items: Sequence[str],
    title_vectors: np.ndarray,
    available: Callable[[str], Collection[str]] | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each example the row numbers of its candidates, and their scores in the id and in the title list."""
    row_of = {item: row for row, item in enumerate(items)}
    core_row = {item: row for row, item in enumerate(core.items)}
    known = np.array([core_row.get(item, -1) for item in items])
    own = [answers[example] for example in examples.example_ids]
    named = [
        answer.item_id or (history[-1] if history else None)
        for answer, history in zip(own, examples.histories, strict=True)
    ]
    queries = titles.encode([answer.title for answer in own])

    @cache
    def rows_on(day: str) -> np.ndarray:
        if available is None:
            return np.arange(len(items))
        return np.array(sorted(row_of[item] for item in available(day) if item in row_of), np.int64)

    for i, (item, day) in enumerate(zip(named, examples.days, strict=True)):
        chosen = rows_on(day)
        by_title = title_vectors[chosen] @ _query(own[i].title, queries[i], item, row_of, title_vectors)
        by_id = np.full(len(chosen), -np.inf)
        if item in core_row:
            has = known[chosen] >= 0
            by_id[has] = core.item_embeddings[known[chosen][has]] @ core.item_embeddings[core_row[item]]
        if item in row_of:
            by_id[chosen == row_of[item]] = np.inf  # the named item itself is nearest to itself
        yield chosen, by_id, by_title


def _query(
    title: str, vector: np.ndarray, item: str | None, row_of: dict[str, int], title_vectors: np.ndarray
) -> np.ndarray:
    if title or item is None or item not in row_of:
        return vector
    return title_vectors[row_of[item]]
