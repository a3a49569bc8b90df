"""Who the language model runs for tonight, and what it writes for them (design: who gets what)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.fits.prompting import PromptTools, prompt_tools
from ml.language_model import number_type
from ml.night.parts import Part
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.generation import Generated
    from ml.memory import QueryMemory
    from ml.models.version import ModelVersion
    from ml.night.shelf import Shelf
    from ml.spark import SparkSource


@dataclass
class Night:
    """A category's answers of one night, and how many were written new, kept, or failed their constraint."""

    rows: pa.Table
    written: int = 0
    kept: int = 0
    failed: int = 0
    seconds: float = 0.0


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


@dataclass(frozen=True)
class CategoryNight:
    """What one category's answers of one night are made from; `histories` are those of every category.

    `spark` is used where `generation.executors` asks for it.
    """

    settings: Settings
    warehouse: Warehouse
    day: str
    category: str
    histories: Part
    shelf: Shelf
    memory: QueryMemory
    adapter: ModelVersion
    spark: SparkSource | None = None

    @cached_property
    def tools(self) -> PromptTools:
        """The category's prompt tools."""
        return prompt_tools(self.settings, self.warehouse, [self.category])

    def unchanged(self) -> dict[str, dict[str, Any]]:
        """Return, by user id, the rows of the table before that still hold.

        They do where prompt, model and settings are the same and the named item is still on the shelf.
        """
        previous = {user: row for user, row in self._previous().items() if row["item_id"] in self.shelf}
        own = self._histories_of(previous)
        if not own.num_rows:
            return {}
        hashes = dict(zip(own["user_id"].to_pylist(), map(self.prompt_hash, self._prompts(own)), strict=True))
        return {user: previous[user] for user, key in hashes.items() if previous[user]["prompt_hash"] == key}

    def write(self, users: Sequence[str], kept: Mapping[str, dict[str, Any]]) -> Night:
        """Return tonight's `generations`: new answers for `users`, and the rows `kept`.

        Answers are generated chunk by chunk; finished chunks survive a killed run.
        """
        from time import perf_counter

        from ml.generation import candidate_rows

        started = perf_counter()
        chosen = self._histories_of(users)
        prompts = self._prompts(chosen) if chosen.num_rows else []
        asked: list[str] = chosen["user_id"].to_pylist()
        answers = self._generate(prompts, asked)
        rows = [
            {
                "user_id": user,
                "item_id": answer.item_id,
                "title": answer.title,
                "log_probability": answer.log_probability,
                "parsed": answer.parsed,
                "candidates": candidate_rows(answer),
                "prompt_hash": self.prompt_hash(prompt),
                "model_version": self.adapter.version,
                "generated_on": self.day,
            }
            for user, prompt, answer in zip(asked, prompts, answers, strict=True)
        ]
        table = pa.Table.from_pylist([*rows, *kept.values()], TABLES["generations"].schema).sort_by("user_id")
        failed = sum(not answer.parsed for answer in answers)
        return Night(table, len(rows), len(kept), failed, perf_counter() - started)

    def prompt_hash(self, ids: Sequence[int]) -> str:
        """Return a hash of a prompt's tokens, the model that reads it and how it is read."""
        adapter, model = self.adapter, self.settings.language_model
        how = self.settings.generation.model_dump(exclude={"max_users", "chunk_users", "batch_size", "executors"})
        read_by = [adapter.scope, adapter.version, model.base_model, model.revision, number_type(model), how]
        digest = hashlib.blake2b(json.dumps(read_by, sort_keys=True).encode(), digest_size=12)
        digest.update(np.asarray(ids, np.int32).tobytes())
        return digest.hexdigest()

    def _histories_of(self, users: Collection[str]) -> pa.Table:
        return self.histories.of(users, pc.field("category") == self.category)

    def _prompts(self, histories: pa.Table) -> list[list[int]]:
        return history_prompts(self.tools, histories, self.memory, self.category)

    def _previous(self) -> dict[str, dict[str, Any]]:
        days = [d for d in self.warehouse.days("generations") if d < self.day]
        if not days or not self.warehouse.exists("generations", date=days[-1], category=self.category):
            return {}
        names = TABLES["generations"].names
        rows = self.warehouse.read("generations", names, date=days[-1], category=self.category)
        return {row["user_id"]: row for row in rows.to_pylist()}

    def _generate(self, prompts: list[list[int]], users: list[str]) -> list[Generated]:
        if not prompts:
            return []
        from ml.generation import AnswerTask, CodeTrie, ModelFolders, generate_in_chunks, generate_on_spark

        tools, settings, adapter = self.tools, self.settings, self.adapter
        codes = tools.codes.filter(pc.field("item_id").isin(pa.array(self.shelf.items, pa.string())))
        trie = CodeTrie.build(codes["code"], codes["item_id"].to_pylist())
        instruction, how = tools.builder.instruction_ids, tools.builder.format
        work = settings.work_folder / "generations" / self.category.replace("/", "_")
        key = f"{tools.model_folder.name} {adapter.scope} {adapter.version} {number_type(settings.language_model)}"
        folders = ModelFolders(tools.model_folder, adapter.folder, settings.language_model)
        if settings.generation.executors == "spark" and self.spark is not None:
            task = AnswerTask(instruction, trie, how, settings.generation, key)
            return generate_on_spark(self.spark.session, folders, task, prompts, users, work)
        model, _ = folders.load()
        return generate_in_chunks(
            model, tools.tokenizer, prompts, instruction, trie, how, settings.generation, users, work, key
        )
