"""What a prompt shows of an item: its code, title and attributes as token ids, tokenised once per item."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ml.prompts.tokens import TextTokenizer, tokenizer_fingerprint
from ml.settings import PromptSettings
from ml.text import clean_text

TITLE_TOKENS = 48
"""A title or query is cut here: with its code, a response must fit the 64 new tokens of the paper's generation."""
_ATTRIBUTE_TOKENS = 128


@dataclass(frozen=True)
class ItemTokens:
    """An item's parts as token ids, each written as further words of a line; `code` is empty where it has none."""

    code: array[int]
    title: array[int]
    attributes: array[int]


class ItemLines:
    """The items of a catalogue as token ids, tokenised in batches when first asked for.

    `catalog` has the columns of the `catalog` table, `codes` those of `item_codes` (rows of other tokenizers are
    ignored).
    """

    def __init__(self, tokens: TextTokenizer, catalog: pa.Table, codes: pa.Table, settings: PromptSettings) -> None:
        self._tokens = tokens
        self._settings = settings
        self._titles = catalog["title"].combine_chunks()
        self._attributes = catalog["attributes"].combine_chunks()
        self._rows = {item: row for row, item in enumerate(catalog["item_id"].to_pylist())}
        own = codes.filter(pc.field("tokenizer") == tokenizer_fingerprint(tokens.tokenizer))
        self._codes = own["code"].combine_chunks()
        self._code_rows = {item: row for row, item in enumerate(own["item_id"].to_pylist())}
        self._made: dict[str, ItemTokens] = {}

    def prepare(self, item_ids: Iterable[str]) -> None:
        """Tokenise all these items in one batch; ones that are not in the catalogue are passed over."""
        new = [item for item in dict.fromkeys(item_ids) if item in self._rows and item not in self._made]
        texts = [self._title(item) for item in new]
        titles = self._tokens.words(texts, TITLE_TOKENS)
        attributes = self._tokens.words(
            [self._attribute_text(item, title) for item, title in zip(new, texts, strict=True)], _ATTRIBUTE_TOKENS
        )
        for item, title, shown in zip(new, titles, attributes, strict=True):
            row = self._code_rows.get(item)
            code = array("i", [] if row is None else self._codes[row].as_py())
            self._made[item] = ItemTokens(code, title, shown)

    def get(self, item_id: str) -> ItemTokens | None:
        """The item's ids, or None if the catalogue lacks it."""
        if item_id not in self._made:
            self.prepare([item_id])
        return self._made.get(item_id)

    def _title(self, item: str) -> str:
        return clean_text(self._titles[self._rows[item]].as_py(), self._settings.max_title_chars)

    def _attribute_text(self, item: str, title: str) -> str:
        """`(key: value; key: value)`, without empty values and values that the title or an earlier one already says."""
        wanted = self._settings.attributes
        if wanted == []:
            return ""
        have = dict(self._attributes[self._rows[item]].as_py() or ())
        said, shown = _words(title), []
        for key in have if wanted is None else wanted:
            value = clean_text(have.get(key), self._settings.max_title_chars)
            if value and _words(value) not in said:
                said += f"|{_words(value)}"
                shown.append(f"{clean_text(key, self._settings.max_title_chars).replace('_', ' ')}: {value}")
        return f"({'; '.join(shown)})" if shown else ""


def _words(text: str) -> str:
    """The words of a text, each between spaces, in lower case: what is said, whatever its punctuation."""
    return " ".join(["", *re.findall(r"[^\W_]+", text.casefold()), ""])
