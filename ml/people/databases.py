"""Customers taken out of a database's text, whose structure stays as it is; and what was deleted, off the disk."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ml.people.scrub import Scrub

if TYPE_CHECKING:
    from sqlalchemy import Connection

_BUSY_SECONDS = 30
_ROWS = 500


def scrub_database(connection: Connection, scrub: Scrub) -> int:
    """Take customers out of the free text of every table with an `id`; return how many values were changed.

    Values that are JSON keep their structure (`Scrub.value`); other values are names and keys, and stay.
    """
    import sqlalchemy as sa

    metadata = sa.MetaData()
    metadata.reflect(connection)
    changed = 0
    for table in metadata.sorted_tables:
        names = [column.name for column in table.columns if isinstance(column.type, sa.String)]  # TEXT is one
        if "id" not in table.columns or not names:
            continue
        for name in names:
            changed += _scrub_column(connection, table, name, scrub)
    return changed


def _scrub_column(connection: Connection, table: object, name: str, scrub: Scrub) -> int:
    import sqlalchemy as sa

    assert isinstance(table, sa.Table)
    identity, column, last, changed = table.c["id"], table.c[name], None, 0
    while True:
        query = sa.select(identity, column).order_by(identity).limit(_ROWS)
        rows = connection.execute(query if last is None else query.where(identity > last)).all()
        for row_id, text in rows:
            last = row_id
            clean = _clean(text, scrub)
            if clean is not None:
                connection.execute(sa.update(table).where(identity == row_id).values({name: clean}))
                changed += 1
        if len(rows) < _ROWS:
            return changed


def _clean(text: object, scrub: Scrub) -> str | None:
    """Return a JSON object or list without the customers; None where nothing changes."""
    if not isinstance(text, str) or text[:1] not in "{[" or not text:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    clean = scrub.value(value)
    return None if clean == value else json.dumps(clean)


def vacuum(path: Path) -> bool:
    """Write a SQLite database anew, so that nothing deleted is left in the file or its log.

    Return False where another process is using it.
    """
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            return not busy
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            return False
        raise
