"""Settings proposed for a shop's own data, from a look at its catalogue and log. No Spark: duckdb reads in streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ml.errors import BadInputError
from ml.log.files import file_format, list_files
from ml.log.raw import raw_days
from ml.settings import OTHER, names_a_partition

if TYPE_CHECKING:
    import duckdb

MAX_CATEGORIES = 20
MIN_EVENT_SHARE = 0.001
MIN_ITEM_SHARE = 0.01
_NAMES = {
    "item_id": ("item_id", "itemid", "item", "product_id", "productid", "article_id", "articleid", "sku", "asin",
                "parent_asin", "product", "article", "id"),
    "title": ("title", "item_title", "product_title", "name", "product_name", "item_name", "prod_name", "productname",
              "article_name", "short_description", "label"),
    "category": ("category", "main_category", "category_name", "product_category", "item_category", "department",
                 "product_group_name", "product_group", "group", "product_type", "type", "categories"),
    "available": ("available", "in_stock", "is_available", "instock", "availability", "active", "is_active"),
}  # fmt: skip
"""Common names of each column, best first; case, spaces and hyphens do not matter."""


def propose_settings(raw_log: Path, catalog: Path) -> dict[str, object]:
    """Return proposed settings: `raw_log`, `catalog`, `catalog_columns`, `categories`, `start_date`, and `notes`.

    `notes` are sentences for the person who reads the proposal. Categories are sorted by their events, then items; at
    most `MAX_CATEGORIES` that hold `MIN_EVENT_SHARE` of the events or `MIN_ITEM_SHARE` of the items. Raises
    BadInputError where a needed column cannot be found, or a file not be read.
    """
    import duckdb

    notes: list[str] = []
    days = raw_days(raw_log)
    with duckdb.connect() as connection:
        source = _source(connection, list_files(catalog) if catalog.is_dir() else [catalog], catalog)
        columns = _detect_columns(_column_names(connection, source, catalog), catalog, notes)
        sizes = _category_sizes(connection, source, columns, raw_log, notes)
    return {
        "raw_log": str(raw_log),
        "catalog": str(catalog),
        "catalog_columns": columns,
        "categories": _choose_categories(sizes, notes),
        "start_date": days[0],
        "notes": notes,
    }


def _source(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], what: Path) -> str:
    """SQL that reads all files, of whatever formats, with every column of text as text."""
    parts = {}
    for path in paths:
        if not path.exists():
            raise BadInputError(f"{path}: no such file.")
        parts.setdefault(file_format(path), []).append(str(path))
    if not parts:
        raise BadInputError(f"{what}: holds no Parquet, CSV or JSON lines file.")
    readers = {
        "parquet": "read_parquet({files}, union_by_name=true, hive_partitioning=false)",
        "csv": "read_csv({files}, header=true, all_varchar=true, union_by_name=true, hive_partitioning=false, "
        "ignore_errors=true, delim=',', quote='\"', escape='\"')",
        "json": "read_json({files}, format='newline_delimited', union_by_name=true, hive_partitioning=false, "
        "ignore_errors=true)",
    }
    texts = (readers[kind].format(files=_literal(files)) for kind, files in parts.items())
    return "(" + " UNION ALL BY NAME ".join(f"SELECT * FROM {text}" for text in texts) + ")"


def _literal(values: Sequence[str]) -> str:
    # duckdb takes *, ? and [ in a name for a pattern; a class of one character stands for itself.
    escaped = ["".join(f"[{c}]" if c in "*?[" else c for c in value).replace("'", "''") for value in values]
    return "[" + ", ".join(f"'{value}'" for value in escaped) + "]"


def _column_names(connection: duckdb.DuckDBPyConnection, source: str, what: Path) -> list[str]:
    return [row[0] for row in _rows(connection, f"DESCRIBE SELECT * FROM {source}", what)]


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, what: Path) -> list[tuple]:
    import duckdb

    try:
        return connection.execute(sql).fetchall()
    except duckdb.Error as error:
        raise BadInputError(f"{what}: cannot be read: {str(error).splitlines()[0][:300]}") from error


def _detect_columns(found: Sequence[str], catalog: Path, notes: list[str]) -> dict[str, str]:
    plain = {name.lower().replace(" ", "_").replace("-", "_"): name for name in reversed(found)}
    columns = {}
    for meaning, names in _NAMES.items():
        name = next((plain[alias] for alias in names if alias in plain and plain[alias] not in columns.values()), None)
        if name is not None:
            columns[meaning] = name
        elif meaning != "available":
            raise BadInputError(
                f"{catalog}: no column looks like {meaning!r}; found {list(found)}. Set catalog_columns.{meaning}."
            )
    for meaning, name in columns.items():
        if name != meaning:
            notes.append(f"The catalogue's column {name!r} was taken for {meaning!r}.")
    if "available" not in columns:
        notes.append("The catalogue has no availability column: items count as available by their events.")
    return columns


def _category_sizes(
    connection: duckdb.DuckDBPyConnection, catalog: str, columns: dict[str, str], raw_log: Path, notes: list[str]
) -> list[tuple[str, int, int]]:
    """(category, events, items), largest first; events without a listed item are told in `notes`."""
    names = {meaning: '"' + name.replace('"', '""') + '"' for meaning, name in columns.items()}
    paths = [path for day in raw_days(raw_log) for path in list_files(raw_log / f"event_date={day}")]
    connection.execute("CREATE TEMP TABLE events (item_id VARCHAR, n BIGINT)")
    if paths:
        log = _source(connection, paths, raw_log)
        if "item_id" not in _column_names(connection, log, raw_log):
            raise BadInputError(f"{raw_log}: the log has no column 'item_id'.")
        _rows(connection, f"INSERT INTO events SELECT CAST(item_id AS VARCHAR), count(*) FROM {log} "
              "WHERE item_id IS NOT NULL GROUP BY 1", raw_log)  # fmt: skip
    listing = (
        f"SELECT CAST({names['item_id']} AS VARCHAR) item_id, any_value(trim(CAST({names['category']} AS VARCHAR))) c "
        f"FROM {catalog} WHERE {names['item_id']} IS NOT NULL GROUP BY 1"
    )
    _rows(connection, f"CREATE TEMP TABLE listing AS {listing}", Path(catalog))
    unlisted, total = connection.execute(
        "SELECT coalesce(sum(n) FILTER (listing.item_id IS NULL), 0), coalesce(sum(n), 0) "
        "FROM events LEFT JOIN listing USING (item_id)"
    ).fetchall()[0]
    if unlisted:
        notes.append(f"{unlisted} of {total} clicks and purchases are of items that the catalogue does not have.")
    if not total:
        notes.append("The log has no clicks or purchases yet: categories are proposed by their items alone.")
    return connection.execute(
        "SELECT coalesce(c, ''), CAST(coalesce(sum(n), 0) AS BIGINT), count(*) FROM listing LEFT JOIN events "
        "USING (item_id) GROUP BY 1 ORDER BY 2 DESC, 3 DESC, 1"
    ).fetchall()


def _choose_categories(sizes: Sequence[tuple[str, int, int]], notes: list[str]) -> list[str]:
    all_events, all_items = sum(row[1] for row in sizes), sum(row[2] for row in sizes)
    chosen, left, unusable = [], [], []
    for name, events, items in sizes:
        large = events >= MIN_EVENT_SHARE * max(all_events, 1) or items >= MIN_ITEM_SHARE * max(all_items, 1)
        if not names_a_partition(name.lower()):
            unusable.append(name)
        elif large and len(chosen) < MAX_CATEGORIES:
            chosen.append(name)
        else:
            left.append((name, events, items))
    if left:
        events, items = sum(row[1] for row in left), sum(row[2] for row in left)
        notes.append(f"{len(left)} small categories ({items} items, {events} events) go to {OTHER!r}: {_short(left)}.")
    if unusable:
        names = ", ".join(repr(name) for name in unusable[:5])
        notes.append(f"These category names cannot be partitions and go to {OTHER!r}: {names}.")
    if not chosen:
        raise BadInputError("The catalogue has no usable category. Set catalog_columns.category to the right column.")
    return chosen


def _short(rows: Sequence[tuple[str, int, int]]) -> str:
    return ", ".join(repr(row[0]) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
