"""Finished chunks survive a killed run; unfinished and damaged ones are made again."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from ml.generation import CodeTrie, generate, generate_in_chunks
from ml.settings import GenerationSettings
from tests.ml.generation_models import FORMAT, byte_tokenizer, one_thread, random_trie, tiny_model

INSTRUCTION = list(b"Recommend:\n")
KEYS = [f"user {i}" for i in range(20)]
OPTIONS = GenerationSettings(max_new_tokens=8, batch_size=3, chunk_users=6, temperature=0.8, beams=1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def parts():
    generator = np.random.default_rng(0)
    inputs = [INSTRUCTION + generator.integers(0, 256, generator.integers(1, 20)).tolist() for _ in KEYS]
    return tiny_model("qwen2"), byte_tokenizer(), inputs, random_trie(generator)[0]


class Forwards:
    """Counts the batches that start, and stops the run in the middle of one where told."""

    def __init__(self, model, stop_at=None):
        self.batches, self.stop_at = 0, stop_at
        self._handle = model.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module, args, kwargs):
        first = kwargs["past_key_values"].get_seq_length() == len(INSTRUCTION) - 1
        self.batches += first
        if self.batches == self.stop_at and not first:
            raise KeyboardInterrupt

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._handle.remove()


def _run(parts, folder, inputs=None, keys=KEYS, trie=None, options=OPTIONS, chunk_key="model 1"):
    model, tokenizer, all_inputs, all_codes = parts
    with Forwards(model) as forwards:
        answers = generate_in_chunks(
            model,
            tokenizer,
            inputs or all_inputs,
            INSTRUCTION,
            trie or all_codes,
            FORMAT,
            options,
            keys,
            folder,
            chunk_key,
        )
    return answers, forwards.batches


def test_chunks_equal_one_call_and_are_reused(parts, tmp_path):
    model, tokenizer, inputs, trie = parts
    answers, batches = _run(parts, tmp_path)
    whole = generate(model, tokenizer, inputs, INSTRUCTION, trie, FORMAT, OPTIONS, KEYS)
    assert [(a.item_id, a.title) for a in answers] == [(a.item_id, a.title) for a in whole]
    assert batches == 7  # 6, 6, 6 and 2 rows in batches of 3
    assert _run(parts, tmp_path) == (answers, 0)


def test_a_killed_run_goes_on(parts, tmp_path):
    model, tokenizer, inputs, trie = parts
    expected, _ = _run(parts, tmp_path / "unbroken")
    with Forwards(model, stop_at=4), pytest.raises(KeyboardInterrupt):
        generate_in_chunks(
            model, tokenizer, inputs, INSTRUCTION, trie, FORMAT, OPTIONS, KEYS, tmp_path / "broken", "model 1"
        )
    assert len(list((tmp_path / "broken").iterdir())) == 1
    assert _run(parts, tmp_path / "broken") == (expected, 5)


def test_a_damaged_chunk_is_made_again(parts, tmp_path):
    expected, _ = _run(parts, tmp_path)
    short, flipped, other, _ = sorted(tmp_path.iterdir(), key=lambda path: -path.stat().st_size)
    short.write_bytes(short.read_bytes()[:-20])
    damaged = bytearray(flipped.read_bytes())
    damaged[30] ^= 0x10
    flipped.write_bytes(damaged)
    pq.write_table(pq.read_table(other).slice(1), other)
    (tmp_path / f"{short.stem}.1.partial").write_bytes(b"PAR1")
    assert _run(parts, tmp_path) == (expected, 6)
    assert _run(parts, tmp_path) == (expected, 0)


def test_what_an_answer_depends_on_names_its_chunk(parts, tmp_path):
    inputs = parts[2]
    _run(parts, tmp_path)
    changed = [ids if i != 8 else [*ids, 7] for i, ids in enumerate(inputs)]
    assert _run(parts, tmp_path, inputs=changed)[1] == 2  # the chunk of row 8 alone
    assert _run(parts, tmp_path, chunk_key="model 2")[1] == 7
    assert _run(parts, tmp_path, trie=CodeTrie.build([[1], [2]], ["x", "y"]))[1] == 7
    assert _run(parts, tmp_path, options=OPTIONS.model_copy(update={"temperature": 0.7}))[1] == 7
    assert _run(parts, tmp_path, keys=KEYS[::-1])[1] == 7
    assert _run(parts, tmp_path, options=OPTIONS.model_copy(update={"max_users": 1}))[1] == 0


def test_no_row_key_is_on_disk(parts, tmp_path):
    _run(parts, tmp_path)
    assert all(b"user " not in path.read_bytes() and "user" not in path.name for path in tmp_path.iterdir())
