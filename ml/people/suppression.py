"""The suppression list: who was forgotten, as keyed hashes, so that the list itself names nobody.

`<home>/people/` holds the list, the key where the settings have none, and the audit records.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from ml.errors import BadInputError
from ml.files import fsync_path, read_json, write_json

if TYPE_CHECKING:
    from ml.settings import Settings

FOLDER = "people"
_CHECK = "hemline suppression list"
_APART = re.compile(r"[\"',;|\t{}\[\]]|:\s|\s+")
"""What stands between the values of a line of CSV or JSON, whole or broken."""


def customer_hash(key: bytes, user: str) -> str:
    """Return the keyed hash of a customer id: the first 32 hexadecimal digits of its HMAC-SHA256."""
    return hmac.new(key, user.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def values_of(line: str) -> set[str]:
    """Return what may be a value in a line that could not be parsed: between delimiters, with and without spaces."""
    wide = (part.strip() for part in re.split(r"[\"',;|\t{}\[\]]", line))
    return {part for part in (*wide, *_APART.split(line)) if part}


@dataclass(frozen=True)
class Suppression:
    """Customers whose events are left out. `hashes` are keyed by `key`, which must not be shown or stored."""

    hashes: frozenset[str] = frozenset()
    key: bytes = field(default=b"", repr=False)

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def holds(self, user: str | None) -> bool:
        """Whether a customer is on the list."""
        return user is not None and customer_hash(self.key, user) in self.hashes

    def holds_line(self, line: str | None) -> bool:
        """Whether a line that could not be parsed names a customer of the list."""
        return line is not None and any(self.holds(value) for value in values_of(line))

    def hash(self, user: str) -> str:
        """Return a customer's keyed hash."""
        return customer_hash(self.key, user)


def suppression_of(settings: Settings) -> Suppression:
    """Return the customers that ingestion leaves out. Raises BadInputError where the list cannot be read."""
    return load(settings.home, key_of(settings))


def key_of(settings: Settings) -> str | None:
    """Return the key of customers' hashes that the settings give, None where they give none."""
    return None if settings.privacy.key is None else settings.privacy.key.get_secret_value()


def load(home: Path, key: str | None) -> Suppression:
    """Return the list below `home`; empty where nobody was ever forgotten.

    `key` is the setting `privacy.key`; None: the file `people/key`. Raises BadInputError where the list was made with
    another key, the key is gone or the file is open to others: an unreadable list must not pass as an empty one.
    """
    folder = home / FOLDER
    kept = read_json(folder / "suppressed.json")
    if kept is None:
        return Suppression()
    return Suppression(frozenset(kept["customers"]), _checked_key(folder, key, kept))


def add(home: Path, key: str | None, users: Iterable[str]) -> Suppression:
    """Add customers to the list, which is on disk when this returns, and return it. Raises as `load` does."""
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with FileLock(folder / ".lock"):
        kept = read_json(folder / "suppressed.json")
        if kept is None:
            own = key.encode() if key is not None else _made_key(folder / "key")
            kept = {"check": customer_hash(own, _CHECK), "customers": {}}
        else:
            own = _checked_key(folder, key, kept)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        known = kept["customers"]
        kept["customers"] = {**{customer_hash(own, user): now for user in users}, **known}
        write_json(folder / "suppressed.json", kept)
    return Suppression(frozenset(kept["customers"]), own)


def _checked_key(folder: Path, key: str | None, kept: dict[str, str]) -> bytes:
    own = key.encode() if key is not None else _read_key(folder / "key")
    if customer_hash(own, _CHECK) != kept["check"]:
        raise BadInputError(
            f"{folder / 'suppressed.json'} was made with another key than "
            + ("the setting privacy.key" if key is not None else str(folder / "key"))
            + ": with this one nobody on it is recognised. Give back the key it was made with"
        )
    return own


def _read_key(path: Path) -> bytes:
    try:
        mode, text = path.stat().st_mode, path.read_bytes().strip()
    except FileNotFoundError:
        raise BadInputError(
            f"{path} is gone, and the suppression list cannot be read without it: restore it, or set privacy.key"
        ) from None
    if mode & 0o077:
        raise BadInputError(f"{path} can be read by others: chmod 600 it")
    return text


def _made_key(path: Path) -> bytes:
    """Return the key in the file, made now if there is none."""
    if path.exists():
        return _read_key(path)
    text = secrets.token_hex(32).encode()
    temporary = path.with_name(".key.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text + b"\n")
        file.flush()
        os.fsync(descriptor)
    temporary.rename(path)
    fsync_path(path.parent)
    return text
