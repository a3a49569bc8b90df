"""Batch generation on Spark's executors: a task takes a chunk, a Python worker loads the model once for all it takes.

The executors need the model's, the adapter's and the work folder under the same paths as this process (a file system
they share), and torch, transformers and peft in their Python. A chunk's answers are what one process would write: the
same rows, the same batches. Its file is written where it is made, so that a run that is killed, here or there, keeps
what was finished.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.errors import HemlineError
from ml.generation.chunks import AnswerTask, Chunk, answer_chunk, read_chunk, split
from ml.generation.decoding import Generated, instruction_cache
from ml.settings import LanguageModelSettings
from ml.spark import executors_words

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class ModelFolders:
    """Where an adapted model is loaded from, on any machine, and how."""

    base: Path
    adapter: Path
    settings: LanguageModelSettings

    def load(self) -> tuple[Any, Any]:
        """Return model and tokenizer."""
        from ml.language_model import load_adapted_model, load_tokenizer

        return load_adapted_model(self.base, self.adapter, self.settings), load_tokenizer(self.base)


def generate_on_spark(
    spark: SparkSession,
    folders: ModelFolders,
    task: AnswerTask,
    inputs: Sequence[list[int]],
    row_keys: Sequence[str],
    work_dir: Path,
) -> list[Generated]:
    """Answer every input as `generate_in_chunks` does, the unfinished chunks on the session's executors.

    With GPUs in Spark's resources (`spark.task.resource.gpu.amount` and the like in `spark.conf`) a worker takes the
    GPU that its task was given. Raises HemlineError with an executor's own error where a chunk cannot be made.
    """
    chunks = list(split(task, inputs, row_keys, work_dir))
    waiting = [chunk for chunk in chunks if read_chunk(chunk) is None]
    if waiting:
        context = spark.sparkContext
        shared = context.broadcast((folders, task))
        try:
            with executors_words("generation"):  # one chunk a task: executors that are done take the next
                context.parallelize(waiting, len(waiting)).foreachPartition(_answer_with(shared))
        finally:
            shared.unpersist()
    answers: list[Generated] = []
    for chunk in chunks:
        answered = read_chunk(chunk)
        if answered is None:
            raise HemlineError(
                f"{chunk.path}: Spark's executors finished this chunk and this machine does not find it. Put `home` on "
                "a file system that every machine of the cluster sees under the same path."
            )
        answers.extend(answered)
    return answers


def _answer_with(shared: Any) -> Callable[[Iterable[Chunk]], None]:  # Any: a Spark broadcast
    def answer(chunks: Iterable[Chunk]) -> None:
        folders, task = shared.value
        for chunk in chunks:
            model, tokenizer = _loaded(folders)
            prefix = instruction_cache(model, task.instruction_ids)
            answer_chunk(model, tokenizer, task, chunk, prefix, lambda: None)

    return answer


_MODELS: dict[ModelFolders, tuple[Any, Any]] = {}
"""The model that this Python worker has loaded: Spark gives it task after task."""


def _loaded(folders: ModelFolders) -> tuple[Any, Any]:
    if folders not in _MODELS:
        _take_own_gpu()
        _MODELS.clear()  # the memory of one is what was planned for
        _MODELS[folders] = folders.load()
    return _MODELS[folders]


def _take_own_gpu() -> None:
    """Show this process the one GPU that Spark gave its task, before anything looks for GPUs."""
    from pyspark import TaskContext

    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context is not None else None
    if gpu is not None and not _MODELS:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu.addresses[0]
