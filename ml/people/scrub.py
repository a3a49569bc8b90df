"""What names a customer in free text (messages, logs, Markdown, JSON), and the same text without it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

FORGOTTEN = "[forgotten]"
MIN_TEXT = 4
"""A search text shorter than this names nobody, and stands in half of all words."""
_PLAIN = re.compile(r"[\w.@+:-]+")
_PICTURE = re.compile(r"(data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+)")
_FREE = {"text", "md_str", "message", "user_message", "stack", "data", "description", "skip_reason"}
"""Keys of Dagster's records below which free text stands; all else is structure, whatever a customer is called."""


class Scrub:
    """Takes customers out of text: their ids and those of their events and sessions, and searches only they made.

    Ids are replaced where they stand as whole words; an id may be any text, so that structure (keys, names, numbers) is
    never touched.
    """

    def __init__(self, ids: Iterable[str], texts: Iterable[str] = ()) -> None:
        self.ids = frozenset(name for name in ids if name)
        self._words = {name for name in self.ids if _PLAIN.fullmatch(name)}
        odd = {*(self.ids - self._words), *(text for text in texts if len(text) >= MIN_TEXT)}
        self._phrases = sorted(odd, key=lambda text: (-len(text), text))

    def __call__(self, text: str) -> str:
        """Return `text` without the customers; pictures in it stay as they are."""
        if not self._touches(text):
            return text
        return "".join(
            part if place % 2 else self._scrub(part) for place, part in enumerate(_PICTURE.split(text))
        )  # every second part is a picture

    def value(self, value: Any, free: bool = False) -> Any:
        """Return a JSON value without the customers in its free text: `_FREE` keys of objects, and all below them."""
        if isinstance(value, str):
            return self(value) if free else value
        if isinstance(value, list):
            return [self.value(one, free) for one in value]
        if isinstance(value, Mapping):
            return {key: self.value(one, free or key in _FREE) for key, one in value.items()}
        return value

    def names(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of a table has one of the ids as a value."""
        return any(isinstance(value, str) and value in self.ids for value in row.values())

    def _touches(self, text: str) -> bool:
        return any(phrase in text for phrase in self._phrases) or any(
            _bare(word) in self._words or word in self._words for word in _PLAIN.findall(text)
        )

    def _scrub(self, text: str) -> str:
        for phrase in self._phrases:
            text = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", FORGOTTEN, text)
        return _PLAIN.sub(self._word, text)

    def _word(self, match: re.Match[str]) -> str:
        word = match.group()
        if word in self._words:
            return FORGOTTEN
        bare = _bare(word)
        return word.replace(bare, FORGOTTEN) if bare in self._words else word


def _bare(word: str) -> str:
    """Return a word without the punctuation around it, which an id may hold inside."""
    return word.strip(".:+-@")
