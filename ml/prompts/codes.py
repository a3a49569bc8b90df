"""Item codes: short sequences of single tokens of the model's own tokenizer that name items in prompts.

A code costs two tokens while the catalogue is small and three for millions of items, where a ten-digit id costs ten.
Codes are fixed by the tokenizer and the item's ordinal, so the table only ever grows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ml.errors import BadInputError
from ml.prompts.tokens import TextTokenizer, tokenizer_fingerprint
from ml.tables import TABLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALPHABET_SIZE = 512
"""Pieces that codes are made of: 229,376 codes of two tokens, then 16 million of three."""
_LONGER_SHARE = 8
"""One piece in this many begins the codes of three tokens and more."""
_MIN_ALPHABET = 8
_CONSONANTS = "bcdfghjklmnpqrstvwxz"
_CLASSES = tuple(
    re.compile(pattern)
    for pattern in (
        "[A-Z]{2}",
        f"[A-Z][{_CONSONANTS}]",
        f"[{_CONSONANTS.upper()}]{{3}}",
        f"[{_CONSONANTS}]{{2,3}}",
        "[a-z]{2,3}",
        "[A-Za-z0-9]{1,6}",
    )
)
"""Kinds of pieces, the least word-like first. Within a kind the commonest come first: their embeddings, which LoRA
does not touch, are the best trained."""


@dataclass(frozen=True)
class CodeBook:
    """The code of every ordinal, for one alphabet of token ids.

    A code of two tokens begins with one of the first pieces; the other pieces begin longer codes, and the last piece
    is followed by a whole further code. So no code is the beginning of another, for any number of items.
    """

    alphabet: tuple[int, ...]
    texts: tuple[str, ...]

    @property
    def longer(self) -> int:
        """How many pieces begin codes of more than two tokens; at least two, the last of which never stops growing."""
        return max(2, len(self.alphabet) // _LONGER_SHARE)

    def digits(self, ordinal: int) -> list[int]:
        """The code of `ordinal` (0, 1, 2, …) as indices into the alphabet."""
        size = len(self.alphabet)
        short, digits = size - self.longer, []
        while True:
            if ordinal < short * size:
                return [*digits, *divmod(ordinal, size)]
            ordinal -= short * size
            if ordinal < (self.longer - 1) * size * size:
                first, rest = divmod(ordinal, size * size)
                return [*digits, short + first, *divmod(rest, size)]
            ordinal -= (self.longer - 1) * size * size
            digits.append(size - 1)

    def code(self, ordinal: int) -> list[int]:
        """The code of `ordinal` as token ids."""
        return [self.alphabet[digit] for digit in self.digits(ordinal)]

    def text(self, ordinal: int) -> str:
        """The code of `ordinal` as a person reads it."""
        return " ".join(self.texts[digit] for digit in self.digits(ordinal))


def code_book(tokenizer: PreTrainedTokenizerBase) -> CodeBook:
    """Choose the alphabet of a tokenizer: up to 512 short word-start pieces whose combinations survive as text.

    Deterministic. Raises BadInputError for a tokenizer with too few such pieces.
    """
    line = _PromptLine(TextTokenizer(tokenizer))
    chosen: list[int] = []
    candidates = _candidates(tokenizer)
    while len(chosen) < ALPHABET_SIZE:
        batch = [piece for piece, _ in zip(candidates, range(ALPHABET_SIZE), strict=False)]
        if not batch:
            break
        survivors = line.surviving([[piece, piece] for piece in batch])
        chosen += [piece for piece, survives in zip(batch, survivors, strict=True) if survives]
    chosen = _agreeing(line, chosen[:ALPHABET_SIZE])
    if len(chosen) < _MIN_ALPHABET:
        raise BadInputError(
            f"tokenizer {tokenizer.name_or_path!r} has only {len(chosen)} short pieces that begin a word and can make "
            f"item codes; expected at least {_MIN_ALPHABET}. Choose a base model with a larger vocabulary."
        )
    return CodeBook(tuple(chosen), tuple(line.tokens.decode([piece]).strip() for piece in chosen))


def assign_codes(tokenizer: PreTrainedTokenizerBase, existing: pa.Table | None, item_ids: Sequence[str]) -> pa.Table:
    """Return the `item_codes` table: `existing` rows unchanged, then a row for every item that has none yet.

    New items get the next ordinals in the order given; neighbours share their first token, so an order that puts
    similar items side by side gives similar items similar codes. Rows of other tokenizers stay. Raises BadInputError
    when existing rows of this tokenizer disagree with its codes.
    """
    schema = TABLES["item_codes"].schema
    table = schema.empty_table() if existing is None else existing.select(schema.names).cast(schema)
    fingerprint = tokenizer_fingerprint(tokenizer)
    own = table.filter(pc.field("tokenizer") == fingerprint)
    known = set(own["item_id"].to_pylist())
    new = [item for item in dict.fromkeys(item_ids) if item not in known]
    book = code_book(tokenizer)
    _check_same_codes(book, own, fingerprint)
    first = max(own["ordinal"].to_pylist(), default=-1) + 1
    ordinals = range(first, first + len(new))
    added = pa.table(
        {
            "tokenizer": pa.repeat(pa.scalar(fingerprint), len(new)),
            "item_id": pa.array(new, pa.string()),
            "ordinal": pa.array(ordinals, pa.int64()),
            "code": pa.array([book.code(ordinal) for ordinal in ordinals], pa.list_(pa.int32())),
            "text": pa.array([book.text(ordinal) for ordinal in ordinals], pa.string()),
        }
    )
    return pa.concat_tables([table, added.cast(schema)]).combine_chunks()


def similar_side_by_side(catalog: pa.Table, attributes: Sequence[str] | None = None) -> list[str]:
    """Return the catalogue's item ids, ordered so that neighbours are alike: category, attributes, title, id.

    `attributes` are compared in the order given (default: as they stand in the catalogue). In this order a code's first
    token says what kind of item it names, and the model can learn that before it learns any item.
    """
    rows = catalog.select(["category", "attributes", "title", "item_id"]).to_pylist()
    values = [dict(row["attributes"] or ()) for row in rows]
    names = dict.fromkeys(name for own in values for name in own) if attributes is None else attributes

    def likeness(place: int) -> tuple[str, ...]:
        row, own = rows[place], values[place]
        return (row["category"], *(own.get(name) or "" for name in names), row["title"], row["item_id"])

    return [rows[place]["item_id"] for place in sorted(range(len(rows)), key=likeness)]


def _check_same_codes(book: CodeBook, own: pa.Table, fingerprint: str) -> None:
    sample = own.take(pa.array(range(0, own.num_rows, max(1, own.num_rows // 1000)), pa.int64()))
    for ordinal, code in zip(sample["ordinal"].to_pylist(), sample["code"].to_pylist(), strict=True):
        if book.code(ordinal) != code:
            raise BadInputError(
                f"item_codes: row {ordinal} of tokenizer {fingerprint} holds {code}, expected {book.code(ordinal)}. "
                "The rows were made under other rules; move the table away and train the models again."
            )


def _candidates(tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """Token ids of short pieces that begin a word, the best first."""
    vocabulary = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder
    prefix = max(("Ġ", "▁"), key=lambda mark: sum(piece.startswith(mark) for piece in vocabulary))
    if not any(piece.startswith(prefix) for piece in vocabulary):
        prefix = ""
    pieces = [
        (index, piece.removeprefix(prefix))
        for piece, index in sorted(vocabulary.items(), key=lambda item: item[1])
        if piece.startswith(prefix) and index not in added
    ]
    seen: set[int] = set()
    for pattern in _CLASSES:
        for index, text in pieces:
            if index not in seen and pattern.fullmatch(text):
                seen.add(index)
                yield index


def _agreeing(line: _PromptLine, pieces: list[int], tries: int = 4096) -> list[int]:
    """Drop pieces until sampled codes of two and three pieces all survive."""
    while len(pieces) >= _MIN_ALPHABET:
        chance = random.Random(0)
        codes = [chance.choices(pieces, k=2 + trial % 2) for trial in range(tries)]
        codes += [[piece, other] for piece, other in zip(pieces, reversed(pieces), strict=True)]
        failed = {code[0] for code, survives in zip(codes, line.surviving(codes), strict=True) if not survives}
        if not failed:
            break
        pieces = [piece for piece in pieces if piece not in failed]
    return pieces


@dataclass(frozen=True)
class _PromptLine:
    """A line of a prompt with a code in it, to see whether the code comes back from the line's text."""

    tokens: TextTokenizer

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        return list(self.tokens.lines(["Bought"])[0]), [*self.tokens.suffix(":"), *self.tokens.words(["Top"])[0]]

    def surviving(self, codes: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each code is the same ids after decoding and encoding the whole line."""
        before, after = self._around
        lines = [[*before, *code, *after] for code in codes]
        again = self.tokens.lines([self.tokens.decode(ids) for ids in lines])
        return [list(ids) == line for ids, line in zip(again, lines, strict=True)]
