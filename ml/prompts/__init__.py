"""Prompts (paper 4.2, figure 3): item codes, prompts as token ids, and the `prompts` table."""

from ml.prompts.builder import Prompt, PromptBuilder, ResponseFormat
from ml.prompts.codes import CodeBook, assign_codes, code_book, similar_side_by_side
from ml.prompts.examples import build_prompts, sample_examples
from ml.prompts.tokens import TextTokenizer, tokenizer_fingerprint

__all__ = [
    "CodeBook",
    "Prompt",
    "PromptBuilder",
    "ResponseFormat",
    "TextTokenizer",
    "assign_codes",
    "build_prompts",
    "code_book",
    "sample_examples",
    "similar_side_by_side",
    "tokenizer_fingerprint",
]
