"""Who the language model runs for tonight, and what it writes for them (design: who gets what)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.recommend.prompting import PromptTools, prompt_tools
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from pathlib import Path

    from ml.generation import Generated
    from ml.memory import QueryMemory
    from ml.recommend.serving import Shelf
    from ml.registry import ModelVersion

EXAMPLES = 8


@dataclass
class Night:
    """A category's answers of one night, and how many were written new, kept, or failed their constraint."""

    rows: pa.Table
    written: int = 0
    kept: int = 0
    failed: int = 0
    seconds: float = 0.0


def choose_users(histories: pa.Table, categories: Sequence[str], limit: int) -> dict[str, pa.Table]:
    """Return the histories the language model runs for: at most `limit` over all `categories`, most active first.

    Ties: more item steps first, then category and user id, so that the choice does not depend on the row order.
    """
    candidates = histories.filter((pc.field("item_steps") > 0) & pc.field("category").isin(list(categories)))
    chosen = candidates.sort_by(
        [("recent_events", "descending"), ("item_steps", "descending"), ("category", "ascending"),
         ("user_id", "ascending")]
    ).slice(0, limit)  # fmt: skip
    return {c: chosen.filter(pc.field("category") == c) for c in categories}


def current_query(steps: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the text of the newest search among the steps."""
    return next((s["query"] for s in reversed(steps) if s["action"] == "search" and s["query"]), None)


def history_prompts(tools: PromptTools, histories: pa.Table, memory: QueryMemory, category: str) -> list[list[int]]:
    """Return one prompt per history: its steps, its newest query, and the memory's products for that."""
    steps = histories["steps"].to_pylist()
    queries = [current_query(s) for s in steps]
    asked = sorted({q for q in queries if q})
    products = dict(zip(asked, memory.lookup(category, asked), strict=True)) if asked else {}
    return [
        tools.builder.build(s, q, products.get(q, []) if q else []).input_ids
        for s, q in zip(steps, queries, strict=True)
    ]


def write_night(
    settings: Settings,
    warehouse: Warehouse,
    day: str,
    category: str,
    histories: pa.Table,
    shelf: Shelf,
    memory: QueryMemory,
    adapter: ModelVersion,
) -> Night:
    """Return tonight's `generations` of one category.

    A customer whose prompt and model are those of the previous table, and whose item is still on the shelf, keeps the
    old answer (`generated_on` says since when). The others' answers are generated, chunk by chunk; finished chunks
    survive a killed run.
    """
    from time import perf_counter

    from ml.generation import candidate_rows

    started = perf_counter()
    tools = prompt_tools(settings, warehouse, [category])
    prompts = history_prompts(tools, histories, memory, category)
    users = histories["user_id"].to_pylist()
    hashes = [prompt_hash(ids, adapter) for ids in prompts]
    previous = _previous_answers(warehouse, day, category)
    kept = {
        user: previous[user]
        for user, key in zip(users, hashes, strict=True)
        if user in previous and previous[user]["prompt_hash"] == key and previous[user]["item_id"] in shelf
    }
    new = [i for i, user in enumerate(users) if user not in kept]
    answers = _generate(settings, tools, [prompts[i] for i in new], [users[i] for i in new], shelf, adapter, category)
    rows = [
        {
            "user_id": users[i],
            "item_id": a.item_id,
            "title": a.title,
            "log_probability": a.log_probability,
            "parsed": a.parsed,
            "candidates": candidate_rows(a),
            "prompt_hash": hashes[i],
            "model_version": adapter.version,
            "generated_on": day,
        }
        for i, a in zip(new, answers, strict=True)
    ]
    table = pa.Table.from_pylist([*rows, *kept.values()], TABLES["generations"].schema).sort_by("user_id")
    failed = sum(not a.parsed for a in answers)
    return Night(table, len(new), len(kept), failed, perf_counter() - started)


def prompt_hash(ids: Sequence[int], adapter: ModelVersion) -> str:
    """Return a hash of a prompt's tokens and the adapter that reads it."""
    digest = hashlib.blake2b(f"{adapter.kind}/{adapter.scope}/{adapter.version}".encode(), digest_size=12)
    digest.update(np.asarray(ids, np.int32).tobytes())
    return digest.hexdigest()


def _previous_answers(warehouse: Warehouse, day: str, category: str) -> dict[str, dict[str, Any]]:
    earlier = [d for d in warehouse.days("generations") if d < day]
    if not earlier or not warehouse.exists("generations", date=earlier[-1], category=category):
        return {}
    rows = warehouse.read("generations", TABLES["generations"].names, date=earlier[-1], category=category)
    return {row["user_id"]: row for row in rows.to_pylist()}


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


def _generate(
    settings: Settings,
    tools: PromptTools,
    prompts: list[list[int]],
    users: list[str],
    shelf: Shelf,
    adapter: ModelVersion,
    category: str,
) -> list[Generated]:
    if not prompts:
        return []
    from ml.generation import CodeTrie, generate_in_chunks
    from ml.language_model import load_adapted_model

    codes = tools.codes.filter(pc.field("item_id").isin(pa.array(shelf.items, pa.string())))
    trie = CodeTrie.build(codes["code"], codes["item_id"].to_pylist())
    model = load_adapted_model(tools.model_folder, adapter.folder, settings.language_model)
    return generate_in_chunks(
        model,
        tools.tokenizer,
        prompts,
        tools.builder.instruction_ids,
        trie,
        tools.builder.format,
        settings.generation,
        users,
        settings.work_folder / "generations" / category.replace("/", "_"),
        f"{tools.model_folder.name} {adapter.scope} {adapter.version} {settings.language_model.dtype}",
    )
