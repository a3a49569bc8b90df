"""What Recformer reads: items as flattened key-value text, histories as those texts, newest first (paper 2.1, 2.2.1).

Strangers' text is tokenised by `ml.prompts.TextTokenizer`, so no title, attribute or query can write a control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ml.baselines.recformer_settings import RecformerSettings
from ml.errors import BadInputError
from ml.prompts import TextTokenizer
from ml.text import clean_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLS, KEY, VALUE, QUERY = range(4)
"""Token types: the paper's three (2.2.2) and one of ours, for a search text."""
TITLE = "title"
"""The key of an item's title."""
_CHARS_PER_TOKEN = 16
_ITEMS_AT_ONCE = 20_000


@dataclass(frozen=True)
class TokenBatch:
    """Sequences padded on the right, int64 [n, longest] each, `mask` bool: True where there is a token.

    `places` is the item position: 0 for [CLS] and padding, 1 for the newest step, 2 for the one before, ….
    """

    ids: np.ndarray
    types: np.ndarray
    places: np.ndarray
    mask: np.ndarray

    @property
    def tokens(self) -> int:
        """How many tokens there are, padding aside."""
        return int(self.mask.sum())


def key_value_pairs(
    title: str, attributes: Sequence[tuple[str, str | None]], wanted: Sequence[str] | None, max_chars: int
) -> list[tuple[str, str]]:
    """Return an item's attribute dictionary D_i as (key, value) pairs, the title first (paper 2.1).

    `attributes` in the catalogue's order, or only those in `wanted`, in its order. Keys are shown with spaces for
    underscores; pairs without a value are left out; both are one clean line of at most `max_chars`.
    """
    have = dict(attributes)
    shown = [(TITLE, title), *((key, have.get(key)) for key in (have if wanted is None else wanted))]
    cleaned = [(clean_text(key, max_chars).replace("_", " "), clean_text(value, max_chars)) for key, value in shown]
    return [(key, value) for key, value in cleaned if value]


class RecformerText:
    """The tokenised texts of a catalogue and of the queries met so far, and sequences made of them.

    A history is an int64 array, oldest step first: an item by its index in `items`, a query by -1 - its number from
    `query_numbers`. Every text is tokenised once.

    Attributes: `items` (item ids in the catalogue's order), `max_tokens` (of a sequence, with [CLS]), `cls_id`,
    `mask_id` (None where the tokenizer has none).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        catalog: pa.Table,
        settings: RecformerSettings,
        longest_input: int | None = None,
    ) -> None:
        """`catalog` has the columns of the `catalog` table; `longest_input` is what the encoder can read.

        Raises BadInputError where the tokenizer has neither a [CLS] nor a beginning token.
        """
        begin, mask = tokenizer.cls_token_id, tokenizer.mask_token_id
        begin = tokenizer.bos_token_id if begin is None else begin
        if not isinstance(begin, int):
            raise BadInputError(
                f"recformer.encoder {settings.encoder!r}: its tokenizer has no [CLS] and no beginning token; expected "
                "a bidirectional encoder such as BERT, RoBERTa or Longformer"
            )
        self.cls_id = begin
        self.mask_id = mask if isinstance(mask, int) else None
        self.max_tokens = min(settings.max_tokens, longest_input or settings.max_tokens)
        self._settings = settings
        self._tokens = TextTokenizer(tokenizer)
        self._max_chars = _CHARS_PER_TOKEN * settings.max_attribute_tokens
        self.items: list[str] = catalog["item_id"].to_pylist()
        self._item_ids: list[np.ndarray] = []
        self._item_types: list[np.ndarray] = []
        self._tokenise_items(catalog.select([TITLE, "attributes"]))
        self._query_numbers: dict[str, int] = {}
        self._query_ids: list[np.ndarray] = []

    def query_numbers(self, queries: Sequence[str]) -> list[int]:
        """Return the number of each search text, from 0 in order of first appearance."""
        new = [query for query in dict.fromkeys(queries) if query not in self._query_numbers]
        cleaned = [clean_text(query, self._max_chars) for query in new]
        for query, ids in zip(new, self._tokens.words(cleaned, self._settings.max_attribute_tokens), strict=True):
            self._query_numbers[query] = len(self._query_ids)
            self._query_ids.append(np.array(ids, dtype=np.int32))
        return [self._query_numbers[query] for query in queries]

    def lengths(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Return how many tokens each history becomes, int64 [n]."""
        found = [1 + sum(len(self._step(step)[0]) for step in self._shown(history)) for history in histories]
        return np.minimum(np.array(found, dtype=np.int64), self.max_tokens)

    def batch(self, histories: Sequence[np.ndarray]) -> TokenBatch:
        """Return X of equation 1 for each history: [CLS] and the texts of its newest `max_items` steps, newest first.

        Cut at `max_tokens`: the oldest text goes first. An item is a history of that item alone (paper 2.2.3).
        """
        rows = [self._row(history) for history in histories]
        shape = (len(rows), max(len(ids) for ids, _, _ in rows))
        ids, types, places = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        mask = np.zeros(shape, dtype=bool)
        for n, row in enumerate(rows):
            length = len(row[0])
            ids[n, :length], types[n, :length], places[n, :length] = row
            mask[n, :length] = True
        return TokenBatch(ids, types, places, mask)

    def _row(self, history: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = [self._step(step) for step in self._shown(history)]
        ids = np.concatenate([[self.cls_id], *(part for part, _ in parts)])
        types = np.concatenate([[CLS], *(part for _, part in parts)])
        places = np.repeat(np.arange(len(parts) + 1), [1, *(len(part) for part, _ in parts)])
        return ids[: self.max_tokens], types[: self.max_tokens], places[: self.max_tokens]

    def _shown(self, history: np.ndarray) -> list[int]:
        return history[::-1][: self._settings.max_items].tolist()

    def _step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The token ids and types of one step."""
        if step >= 0:
            return self._item_ids[step], self._item_types[step]
        ids = self._query_ids[-1 - step]
        return ids, np.full(len(ids), QUERY, dtype=np.int8)

    def _tokenise_items(self, catalog: pa.Table) -> None:
        known: dict[str, np.ndarray] = {}
        for start in range(0, len(self.items), _ITEMS_AT_ONCE):
            rows = catalog.slice(start, _ITEMS_AT_ONCE)
            items = [
                key_value_pairs(title, attributes or (), self._settings.attributes, self._max_chars)
                for title, attributes in zip(rows[TITLE].to_pylist(), rows["attributes"].to_pylist(), strict=True)
            ]
            new = [
                text for text in dict.fromkeys(t for item in items for pair in item for t in pair) if text not in known
            ]
            known.update(zip(new, (np.array(i, dtype=np.int32) for i in self._tokens.words(new)), strict=True))
            for pairs in items:
                ids, types = self._flatten(pairs, known)
                self._item_ids.append(ids)
                self._item_types.append(types)

    def _flatten(self, pairs: list[tuple[str, str]], known: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """T_i of paper 2.1, "key value key value …", each pair and the whole cut to their limits."""
        ids, types = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int8)]
        for key, value in pairs:
            both = np.concatenate([known[key], known[value]])
            kinds = np.repeat(np.array([KEY, VALUE], dtype=np.int8), [len(known[key]), len(known[value])])
            ids.append(both[: self._settings.max_attribute_tokens])
            types.append(kinds[: self._settings.max_attribute_tokens])
        limit = self._settings.max_item_tokens
        return np.concatenate(ids)[:limit], np.concatenate(types)[:limit]
