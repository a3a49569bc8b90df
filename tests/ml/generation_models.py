"""Tiny random models of four real families, a byte tokenizer, and a slow, plain way to generate."""

from contextlib import contextmanager

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ml.generation import CodeTrie, Generated
from ml.prompts import ResponseFormat
from ml.text import clean_text

END, START, UNKNOWN = 256, 257, 258
VOCABULARY = 272  # more than the tokenizer's 259: real models have unused rows
FORMAT = ResponseFormat(separator_ids=[10, 45], end_id=END)
FAMILIES = ("falcon", "falcon_alibi", "falcon_grouped", "llama", "gpt_neox", "qwen2")


@contextmanager
def one_thread():
    """Threads only wait for each other in models this small, for minutes where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def byte_tokenizer():
    """One token per byte, and three control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|start|>", unk_token="<|unknown|>"
    )


def tiny_model(family, seed=0):
    """A random model whose weights are large enough that different prompts get different answers."""
    torch.manual_seed(seed)
    common = dict(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.25,
        bos_token_id=START, eos_token_id=END, pad_token_id=None,
    )  # fmt: skip
    if family.startswith("falcon"):
        grouped = family == "falcon_grouped"
        config = FalconConfig(
            **common, alibi=family == "falcon_alibi", new_decoder_architecture=grouped, num_kv_heads=2 if grouped else 4
        )
        return FalconForCausalLM(config).eval()
    if family == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**common, intermediate_size=64)).eval()
    classes = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
    config_class, model_class = classes[family]
    return model_class(config_class(**common, intermediate_size=64, num_key_value_heads=2)).eval()


def random_trie(generator, items=40, tokens=200):
    """Codes of one, two and three tokens under different first tokens."""
    firsts = generator.permutation(tokens)[:items]
    codes = [[int(first), *map(int, generator.integers(0, tokens, i % 3))] for i, first in enumerate(firsts)]
    codes += [[code[0], (code[1] + 1) % tokens, *code[2:]] for code in codes if len(code) > 1]
    return CodeTrie.build(codes, [f"item-{i}" for i in range(len(codes))]), codes


def slow_greedy(model, tokenizer, ids, trie, max_new_tokens=64):
    """Answer one row, reading the whole text again for every token: no cache, no batch, no padding."""
    text, node, log_probability = list(ids), 0, 0.0
    while trie.item(node) is None:
        logits = _last_logits(model, text)
        token = max(trie.allowed(node).tolist(), key=lambda t: (float(logits[t]), -t))
        log_probability += float(torch.log_softmax(logits.double(), dim=-1)[token])
        node = trie.step(node, token)
        text.append(token)
    text += FORMAT.separator_ids
    title = []
    while len(text) - len(ids) < max_new_tokens:
        logits = _last_logits(model, text)
        logits[END + 1 :] = -torch.inf
        token = int(logits.argmax())
        text.append(token)
        if token == END:
            break
        title.append(token)
    written = clean_text(tokenizer.decode(title).replace("\ufffd", ""))
    return Generated(trie.item(node), written, log_probability, True)


@torch.no_grad()
def _last_logits(model, ids):
    return model(torch.tensor([ids])).logits[0, -1]
