"""Customers taken out of a database's text, whose structure stays as it is; and what was deleted, off the disk."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ml.people.scrub import Scrub

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

SQLITE = "sqlite:///"
_BUSY_SECONDS = 30
_LOCK_NOT_AVAILABLE = "55P03"
_ROWS = 500


def scrub_database(connection: Connection, scrub: Scrub) -> int:
    """Take customers out of the free text of every table with an `id`; return how many values were changed.

    Values that are JSON keep their structure (`Scrub.value`); other values are names and keys, and stay.
    """
    return sum(
        _scrub_column(connection, table, name, scrub)
        for table in _tables(connection)
        if "id" in table.columns
        for name in _texts(table)
    )


def _tables(connection: Connection) -> list[Table]:
    """Return the tables with free text."""
    import sqlalchemy as sa

    metadata = sa.MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if _texts(table)]


def _texts(table: Table) -> list[str]:
    import sqlalchemy as sa

    return [column.name for column in table.columns if isinstance(column.type, sa.String)]  # TEXT is one


def _scrub_column(connection: Connection, table: Table, name: str, scrub: Scrub) -> int:
    import sqlalchemy as sa

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


def vacuum(url: str) -> bool:
    """Write a database anew, so that nothing deleted is left in its files; return False where it is in use.

    Another kind than SQLite and PostgreSQL, or a server before it, is left to whoever runs that.
    """
    if url.startswith(SQLITE):
        return _vacuum_sqlite(Path(url.removeprefix(SQLITE)))
    return not url.startswith("postgresql") or _vacuum_postgres(url)


def _vacuum_sqlite(path: Path) -> bool:
    """Empty the free pages and the log of a file, if there is one."""
    if not path.exists():
        return True
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            return not busy
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            return False
        raise


def _vacuum_postgres(url: str) -> bool:
    """Write every table with text into new files, and draw the samples of their values anew that planning keeps.

    PostgreSQL leaves a changed row's old version in its place: a plain VACUUM frees that and does not erase it.
    """
    import sqlalchemy as sa
    from sqlalchemy.exc import OperationalError

    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(sa.text(f"SET lock_timeout = '{_BUSY_SECONDS}s'"))
            for table in _tables(connection):
                name = engine.dialect.identifier_preparer.format_table(table)
                connection.execute(sa.text(f"VACUUM (FULL, ANALYZE) {name}"))
            connection.execute(sa.text("VACUUM FULL pg_catalog.pg_statistic"))  # the samples' old versions
        return True
    except OperationalError as error:
        if getattr(error.orig, "pgcode", None) == _LOCK_NOT_AVAILABLE:
            return False
        raise
    finally:
        engine.dispose()
