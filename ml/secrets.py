"""What must not be printed, logged or stored: passwords in addresses, and settings that are keys.

Every `Settings` object makes its secrets known here, so that an error which quotes one (a tracking server's address,
say) can be shown without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

from ml.errors import HemlineError

HIDDEN = "***"
_IN_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*):[^\s/]+@")
_SECRET_NAME = re.compile(
    r"password|passwd|secret|token$|credential|private|(access|account|api)[._-]?key|\bkey$", re.I
)
_SHORTEST = 4
"""Shorter values are no secrets, and hiding them would hide half of what is said."""
_known: set[str] = set()


def remember(settings: BaseModel) -> None:
    """Make the secrets of a settings object known to `redact`."""
    _known.update(value for value in _secrets(settings, "") if len(value) >= _SHORTEST)


def is_secret_name(name: str) -> bool:
    """Whether a setting of this (dotted) name is a secret by its name, such as `fs.s3a.secret.key`."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Return `text` without known secrets and without the password of any address in it."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _IN_ADDRESS.sub(rf"\1:{HIDDEN}@", text)


def redacted(error: Exception) -> Exception:
    """Return `error`, or where it or what caused it quotes a secret, an error of the same words without it."""
    words, cause = str(error), error
    seen: list[BaseException] = []
    chain: BaseException | None = error
    while chain is not None and chain not in seen:
        seen.append(chain)
        chain = chain.__cause__ or chain.__context__
    if all(redact(text) == text for one in seen for text in (str(one), *getattr(one, "__notes__", ()))):
        return error
    if isinstance(cause, HemlineError):
        return type(cause)(redact(words))
    return HemlineError(f"{type(error).__name__}: {redact(words)}")


def shown(name: str, value: object) -> str:
    """Return a setting's value as a person may see it."""
    if isinstance(value, Mapping):
        return str({key: HIDDEN if is_secret_name(str(key)) else shown(str(key), own) for key, own in value.items()})
    return HIDDEN if value is not None and is_secret_name(name) else redact(str(value))


def _secrets(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        for field in type(value).model_fields:
            yield from _secrets(getattr(value, field), field)
    elif isinstance(value, Mapping):
        for key, own in value.items():
            yield from _secrets(own, str(key))
    elif isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, str):
        if is_secret_name(name):
            yield value
        if "://" in value:
            password = _password(value)
            yield from {password, unquote(password)} if password else ()


def _password(address: str) -> str | None:
    try:
        return urlsplit(address).password
    except ValueError:
        return None
