"""Generation in chunks that outlive the process: a run that was killed goes on with the first unfinished chunk."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml.errors import BadInputError
from ml.generation.decoding import Generated, evaluating, generate, instruction_cache
from ml.generation.trie import CodeTrie
from ml.settings import GenerationSettings
from ml.tables import CANDIDATE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ml.generation.prefix_cache import PrefixCache
    from ml.prompts import ResponseFormat

FORMAT = 2
"""Raised when the same inputs would be answered differently by new code: older chunks are then not reused."""
ANSWER = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("title", pa.string(), nullable=False),
        pa.field("log_probability", pa.float64()),
        pa.field("parsed", pa.bool_(), nullable=False),
        pa.field("candidates", pa.list_(CANDIDATE), nullable=False),
    ]
)


@dataclass(frozen=True)
class AnswerTask:
    """What answers depend on beside their inputs and the model; `key` must name the model (version, data type)."""

    instruction_ids: list[int]
    trie: CodeTrie
    response_format: ResponseFormat
    settings: GenerationSettings
    key: str


@dataclass(frozen=True)
class Chunk:
    """Rows that are answered together, and the file their answers are kept in."""

    path: Path
    inputs: list[list[int]]
    row_keys: list[str]


def generate_in_chunks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Sequence[list[int]],
    instruction_ids: list[int],
    trie: CodeTrie,
    response_format: ResponseFormat,
    settings: GenerationSettings,
    row_keys: Sequence[str],
    work_dir: Path,
    chunk_key: str,
) -> list[Generated]:
    """Answer every input as `generate` does, keeping each finished chunk of `settings.chunk_users` rows in `work_dir`.

    A chunk's file is named by a hash of everything its answers depend on: its inputs and row keys, the instruction, the
    trie, the response's format, the settings, and `chunk_key`, which must name the model (its version, its data type).
    A chunk that is there and whole is read, not generated; one that was half written, or damaged, is generated again.
    Batches never span chunks, so that a rerun forms the same batches. No row key is written to disk.
    """
    from tqdm import tqdm

    task = AnswerTask(instruction_ids, trie, response_format, settings, chunk_key)
    answers: list[Generated] = []
    prefix = None
    with evaluating(model), tqdm(total=len(inputs), unit="user", desc="generating", disable=None) as bar:
        for chunk in split(task, inputs, row_keys, work_dir):
            answered = read_chunk(chunk)
            if answered is None:
                prefix = instruction_cache(model, instruction_ids) if prefix is None else prefix
                answered = answer_chunk(model, tokenizer, task, chunk, prefix, bar.update)
            else:
                bar.update(len(answered))
            answers.extend(answered)
    return answers


def split(task: AnswerTask, inputs: Sequence[list[int]], row_keys: Sequence[str], work_dir: Path) -> Iterator[Chunk]:
    """Yield the chunks of `task.settings.chunk_users` rows, each with its file below `work_dir`, which is made."""
    if len(row_keys) != len(inputs):
        raise BadInputError(f"generation: {len(row_keys)} row keys for {len(inputs)} inputs; expected one per input")
    work_dir.mkdir(parents=True, exist_ok=True)
    common = [
        FORMAT, task.key, task.instruction_ids, task.trie.fingerprint, task.response_format.separator_ids,
        task.response_format.end_id, task.settings.model_dump(exclude={"max_users", "chunk_users", "executors"}),
    ]  # fmt: skip
    for start in range(0, len(inputs), task.settings.chunk_users):
        rows = slice(start, start + task.settings.chunk_users)
        own, keys = list(inputs[rows]), list(row_keys[rows])
        yield Chunk(work_dir / f"generated-{_key(common, own, keys)}.parquet", own, keys)


def answer_chunk(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: AnswerTask,
    chunk: Chunk,
    prefix: PrefixCache,
    on_finished: Callable[[], object],
) -> list[Generated]:
    """Answer a chunk and keep the answers in its file; `on_finished` is called once per row."""
    answers = generate(
        model, tokenizer, chunk.inputs, task.instruction_ids, task.trie, task.response_format, task.settings,
        chunk.row_keys, prefix=prefix, on_finished=on_finished,
    )  # fmt: skip
    _write(chunk.path, answers)
    return answers


def read_chunk(chunk: Chunk) -> list[Generated] | None:
    """Return a finished chunk's answers, or None where there are none that can be trusted."""
    return _read(chunk.path, len(chunk.inputs))


def _key(common: list[object], inputs: Sequence[list[int]], row_keys: Sequence[str]) -> str:
    digest = hashlib.blake2b(json.dumps([common, list(row_keys)], sort_keys=True).encode(), digest_size=16)
    for ids in inputs:
        digest.update(len(ids).to_bytes(8, "little"))
        digest.update(np.asarray(ids, dtype=np.int64).tobytes())
    return digest.hexdigest()


def candidate_rows(answer: Generated) -> list[dict[str, str | float]]:
    """Return an answer's candidates as rows of `ml.tables.CANDIDATE`."""
    return [{"item_id": item, "log_probability": value} for item, value in answer.candidates]


def _read(path: Path, rows: int) -> list[Generated] | None:
    """Return a finished chunk, or None where there is none that can be trusted."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None
    if table.num_rows != rows or table.schema != ANSWER:
        return None
    return [Generated(**row | {"candidates": _pairs(row["candidates"])}) for row in table.to_pylist()]


def _pairs(candidates: list[dict[str, Any]]) -> tuple[tuple[str, float], ...]:
    return tuple((c["item_id"], c["log_probability"]) for c in candidates)


def _write(path: Path, answers: Sequence[Generated]) -> None:
    """Write a chunk so that its name only ever stands for a whole file."""
    rows = [vars(answer) | {"candidates": candidate_rows(answer)} for answer in answers]
    table = pa.Table.from_pylist(rows, schema=ANSWER)
    partial = path.with_suffix(f".{socket.gethostname()}-{os.getpid()}.partial")  # machines may share the folder
    try:
        with partial.open("wb") as file:
            pq.write_table(table, file, write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
