"""Text to token ids such that text is never control: what every other file of this package builds prompts from.

Strangers' titles, attributes and queries are cleaned to one line and tokenised with `split_special_tokens=True`; ids
of control tokens and of line breaks are struck out of what is left, so that only this package can write them.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml.errors import BadInputError
from ml.text import clean_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "Bought QX zk: Strap top - 3-pack, 100% Größe 早\n(black)"


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return 16 hex digits that are equal for tokenizers with the same vocabulary, control ids and behaviour.

    Made from the vocabulary, the special ids and the ids of a probe text, so it survives saving, loading and library
    upgrades that change neither.
    """
    facts = [
        sorted(tokenizer.get_vocab().items()),
        sorted(tokenizer.all_special_ids),
        tokenizer.encode(_PROBE, add_special_tokens=False),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Markers:
    """The ids around the three parts of a prompt (paper figure 3); only ids of control tokens, roles and line breaks.

    ChatML tokenizers (SmolLM2, Qwen) get their own turn markers, so that an instruction-tuned model sees the form it
    knows; any other tokenizer its beginning, separator and end tokens.
    """

    begin: tuple[int, ...]
    after_instruction: tuple[int, ...]
    after_input: tuple[int, ...]
    end_id: int


class TextTokenizer:
    """A tokenizer that turns untrusted text into ids without control tokens or line breaks.

    Attributes: `line_break` (the ids of a line's end, never part of any text), `markers`, `control_ids` (ids that text
    can never yield).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._adds_space = self._decode_raw([*self._raw("a"), *self._raw("a")]).strip() == "a a"
        special = set(tokenizer.all_special_ids)
        special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special or not _is_word(token)}
        self.line_break = self._line_break()
        self.control_ids = frozenset(special | set(self.line_break))
        self.markers = self._markers()

    def lines(self, texts: Sequence[str], max_tokens: int | None = None) -> list[array[int]]:
        """Ids of each text as the beginning of a line."""
        return self._encode([clean_text(text) for text in texts], max_tokens)

    def words(self, texts: Sequence[str], max_tokens: int | None = None) -> list[array[int]]:
        """Ids of each text as further words of a line; an empty text has none."""
        cleaned = [clean_text(text) for text in texts]
        return self._encode(
            cleaned if self._adds_space else [f" {text}" if text else "" for text in cleaned], max_tokens
        )

    def suffix(self, punctuation: str) -> list[int]:
        """Ids of punctuation written right after a word."""
        word, both = self._raw("a"), self._raw(f"a{punctuation}")
        return both[len(word) :] if both[: len(word)] == word else self._raw(punctuation)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, control tokens included, for people."""
        return self._decode_raw(list(ids))

    def _encode(self, texts: list[str], max_tokens: int | None) -> list[array[int]]:
        if not texts:
            return []
        rows = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        control = self.control_ids
        return [array("i", [i for i in row if i not in control][:max_tokens]) for row in rows]  # pyright: ignore

    def _raw(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _decode_raw(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _line_break(self) -> list[int]:
        between = self._raw("a\na")[len(self._raw("a")) : -1]
        if between and "\n" in self._decode_raw(between):
            return between
        # A tokenizer that swallows line breaks (WordPiece): a control token ends our lines instead.
        return [self._separator()]

    def _special_id(self, *names: str) -> int | None:
        """The id of the first of these special tokens (bos, eos, sep, …) that the tokenizer has."""
        ids = (getattr(self.tokenizer, f"{name}_token_id") for name in names)
        return next((int(i) for i in ids if i is not None), None)

    def _separator(self) -> int:
        found = self._special_id("sep", "eos")
        if found is None:
            raise BadInputError(
                f"tokenizer {self.tokenizer.name_or_path!r} has no end-of-text and no separator token: a prompt needs "
                "one to end its response. Set its eos_token."
            )
        return found

    def _markers(self) -> Markers:
        tokenizer, line_break = self.tokenizer, self.line_break
        special = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        if "<|im_start|>" in special and "<|im_end|>" in special:
            start, end = special["<|im_start|>"], special["<|im_end|>"]
            system, user, assistant = ([*ids, *line_break] for ids in self.lines(["system", "user", "assistant"]))
            turn = [end, *line_break, start]
            return Markers((start, *system), (*turn, *user), (*turn, *assistant), end)
        separator = self._separator()
        begin, end = self._special_id("bos", "cls"), self._special_id("eos")
        return Markers(() if begin is None else (begin,), (separator,), (separator,), separator if end is None else end)


def _is_word(token: object) -> bool:
    return str(token).strip(" Ġ▁").isalnum()
