"""Strangers' text made safe to store and show: titles, attributes and queries are data, never control."""

from __future__ import annotations

import unicodedata


def clean_text(text: str | None, max_chars: int | None = None) -> str:
    """Return `text` on one line, NFC, without control, format (bidi, zero-width), surrogate or private characters.

    White space of any kind becomes single spaces. `None` becomes "". At most `max_chars` characters are kept; only a
    few times that many are looked at, so that a title of a megabyte costs nothing.
    """
    if not text:
        return ""
    if max_chars is not None:
        text = text[: 4 * max_chars]
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():
        # What stood on both sides of a removed character may compose: normalise again.
        text = unicodedata.normalize("NFC", "".join(map(_visible, text)))
    flat = " ".join(text.split())
    return flat if max_chars is None else flat[:max_chars].rstrip()


def _visible(character: str) -> str:
    if character.isspace() or character == "\0":
        return " "
    return "" if unicodedata.category(character).startswith("C") else character


def normalise_query(text: str | None, max_chars: int = 200) -> str:
    """Return a search text as queries are compared: NFKC, lower case, single spaces; "" if nothing is left."""
    if not text:
        return ""
    return clean_text(unicodedata.normalize("NFKC", text[: 4 * max_chars]).lower(), max_chars)
