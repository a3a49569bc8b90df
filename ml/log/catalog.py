"""The catalogue: the shop's listing with its columns mapped, and the `catalog` table made from it and the log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ml.errors import BadInputError
from ml.log import coerce
from ml.log.files import InputFile, list_files, probe
from ml.log.spark_files import BLOCK, MALFORMED, SOURCE, quoted, read_groups
from ml.log.text_column import map_text
from ml.settings import OTHER, CatalogColumns
from ml.text import clean_text

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

MAX_TEXT_CHARS = 500
"""Titles and attributes are cut to this length."""
_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
_COLUMNS = ("item_id", "title", "category", "attributes", "available")


def read_catalog(spark: SparkSession, path: Path, columns: CatalogColumns, categories: Sequence[str]) -> DataFrame:
    """Return the listing: one row per `item_id` with `title`, `category`, `attributes` and `available`.

    `path` is a Parquet, CSV or JSON lines file, or a folder of them. Text is cleaned and cut to `MAX_TEXT_CHARS`; an
    item without a title is called 'untitled <item_id>'; a category that is not listed is 'other'; empty attributes
    are left out. Of several rows with one id the last in file order (files by name) stays. Rows without a usable id
    are left out; `catalog_report` counts them. `available` is null where the value is neither yes nor no.
    Raises BadInputError naming the setting and the columns found where a mapped column is missing, and the file
    where one cannot be read.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    rows = _listing(spark, path, columns, categories).filter(F.col("_usable"))
    newest = Window.partitionBy("item_id").orderBy(*(F.col(name).desc() for name in (SOURCE, BLOCK, "_row")))
    return rows.withColumn("_place", F.row_number().over(newest)).filter("_place = 1").select(*_COLUMNS)


def catalog_report(
    spark: SparkSession, path: Path, columns: CatalogColumns, categories: Sequence[str]
) -> dict[str, int]:
    """Count what `read_catalog` met: rows, items, malformed lines, unusable ids, repeated rows and the like.

    `identical_duplicates` are rows that repeat another of their item word for word; `conflicting_items` have rows
    that differ, of which the last was kept; `untitled` and `other_category` count rows with a usable id.
    """
    from pyspark.sql import functions as F

    rows = _listing(spark, path, columns, categories)
    content = F.struct("title", "category", F.to_json("attributes"), "available")
    usable = rows.filter(F.col("_usable")).groupBy("item_id")
    items = usable.agg(
        F.count("*").alias("rows"),
        F.count_distinct(content).alias("variants"),
        F.sum(F.col("_untitled").cast("int")).alias("untitled"),
        F.sum((F.col("category") == OTHER).cast("int")).alias("other_category"),
    )
    per_item = items.agg(
        F.count("*").alias("items"),
        F.sum(F.col("rows") - F.col("variants")).alias("identical_duplicates"),
        F.sum((F.col("variants") > 1).cast("int")).alias("conflicting_items"),
        F.sum("untitled").alias("untitled"),
        F.sum("other_category").alias("other_category"),
    )
    malformed = F.col(MALFORMED).isNotNull()
    totals = rows.agg(
        F.count("*").alias("rows"),
        F.sum(malformed.cast("int")).alias("malformed_lines"),
        F.sum((~malformed & ~F.col("_usable")).cast("int")).alias("unusable_ids"),
    )
    row = totals.crossJoin(per_item).first()
    return {name: int(count or 0) for name, count in row.asDict().items()} if row else {}


def build_catalog(
    listing: DataFrame, previous: DataFrame | None, interactions: DataFrame, day: str, kept_from: str | None = None
) -> DataFrame:
    """Return the `catalog` table as of the end of `day`.

    `listing` comes from `read_catalog`; `previous` is the table published before, None for the first; events of
    `interactions` (with `date`) after `day` are not looked at. Items gone from the listing stay as they were, not
    available where the listing has such a column. `listed_on` is `day` for items that join, and null for those of the
    first publication. Events before `kept_from` are those that `previous` knows: those days are published no more.
    `first_seen` is the day of the first event or of the listing, whichever is earlier.
    """
    from pyspark.sql import functions as F

    events = interactions.filter((F.col("date") <= day) & F.col("item_id").isNotNull())
    day_of_event = F.col("date").cast("date")
    seen = events.groupBy("item_id").agg(F.min(day_of_event).alias("_first"), F.max(day_of_event).alias("last_seen"))
    table = listing.withColumn("listed_on", F.lit(None).cast("date"))
    if previous is not None:
        seen = _with_removed_days(seen, previous, kept_from) if kept_from else seen
        table = _with_previous(listing, previous, day)
    table = table.join(seen, "item_id", "left").withColumn("first_seen", F.least("_first", "listed_on"))
    return table.select(
        *("item_id", "title", "category", "attributes", "first_seen", "last_seen", "listed_on", "available")
    )


def _with_removed_days(seen: DataFrame, previous: DataFrame, kept_from: str) -> DataFrame:
    """Add the first and last events that lie on days which are published no more."""
    from pyspark.sql import functions as F

    def gone(name: str) -> Column:
        return F.when(F.col(name) < F.lit(kept_from).cast("date"), F.col(name))

    old = previous.select("item_id", gone("first_seen").alias("_gone_first"), gone("last_seen").alias("_gone_last"))
    return seen.join(old, "item_id", "full").select(
        "item_id",
        F.least("_first", "_gone_first").alias("_first"),
        F.greatest("last_seen", "_gone_last").alias("last_seen"),
    )


def _with_previous(listing: DataFrame, previous: DataFrame, day: str) -> DataFrame:
    from pyspark.sql import functions as F

    shown = F.coalesce(F.max(F.col("available").isNotNull()), F.lit(False)).alias("_shown")
    old = previous.select(
        "item_id",
        *(F.col(name).alias(f"_{name}") for name in ("title", "category", "attributes", "listed_on")),
        F.lit(True).alias("_old"),
    )
    new = listing.withColumn("_listed", F.lit(True))
    both = new.join(old, "item_id", "full").crossJoin(F.broadcast(listing.agg(shown)))
    gone = F.col("_listed").isNull()
    return both.select(
        "item_id",
        *(F.when(gone, F.col(f"_{name}")).otherwise(F.col(name)).alias(name) for name in _COLUMNS[1:4]),
        F.when(~gone, F.col("available")).when(F.col("_shown"), F.lit(False)).alias("available"),
        F.when(F.col("_old"), F.col("_listed_on")).otherwise(F.lit(day).cast("date")).alias("listed_on"),
    )


def _listing(spark: SparkSession, path: Path, columns: CatalogColumns, categories: Sequence[str]) -> DataFrame:
    """Every row of the catalogue's files in the contract's columns, with its place and what is wrong with it."""
    from pyspark.sql import functions as F

    files = catalog_files(path)
    for file in files:
        _check_mapping(file, columns)

    def convert(frame: DataFrame, types: dict[str, str]) -> DataFrame:
        return _to_listing(frame, types, columns)

    root = path if path.is_dir() else path.parent
    rows = read_groups(spark, files, root, None, True, convert)
    if rows is None:
        raise BadInputError(f"catalog {path}: holds no Parquet, CSV or JSON lines file. Put the catalogue there.")
    id_ = F.col("item_id")
    usable = (F.trim(id_) != "") & (F.length(id_) <= coerce.MAX_ID_CHARS) & ~id_.rlike(coerce.HIDDEN)
    untitled = F.col("title") == ""
    listed = F.col("category").isin(list(categories))
    return (
        rows.withColumn("_row", F.monotonically_increasing_id())
        .withColumn("_usable", F.coalesce(usable, F.lit(False)) & F.col(MALFORMED).isNull())
        .withColumn("_untitled", untitled)
        .withColumn("title", F.when(untitled, F.concat(F.lit("untitled "), id_)).otherwise(F.col("title")))
        .withColumn("category", F.when(listed, F.col("category")).otherwise(F.lit(OTHER)))
    )


def catalog_files(path: Path) -> list[InputFile]:
    """Return the catalogue's files, each read to its end; raises BadInputError where `path` is not there."""
    if not path.exists():
        raise BadInputError(f"catalog {path}: no such file or folder. Set `catalog` to the catalogue's path.")
    paths = list_files(path) if path.is_dir() else [path]
    return probe(paths, path if path.is_dir() else path.parent)


def _check_mapping(file: InputFile, columns: CatalogColumns) -> None:
    if file.format == "json" and not file.types:
        return
    mapped = {name: getattr(columns, name) for name in ("item_id", "title", "category", "available")}
    mapped |= {f"attributes[{index}]": name for index, name in enumerate(columns.attributes or [])}
    for setting, name in mapped.items():
        if name is None or (file.format == "json" and setting not in {"item_id", "title", "category"}):
            continue  # JSON lines usually leave out what is null
        if name not in file.types:
            raise BadInputError(
                f"catalog_columns.{setting} is {name!r}, and {file.path} has no such column; found "
                f"{sorted(file.types)}. Set it to the column that holds this."
            )
        kind = file.types[name]
        if kind.startswith("other") or (kind == "null" and setting == "item_id" and file.head.num_rows):
            raise BadInputError(
                f"{file.path}: column {name!r} (catalog_columns.{setting}) holds {kind.removeprefix('other: ')}; "
                "expected text or numbers."
            )


def _to_listing(frame: DataFrame, types: dict[str, str], columns: CatalogColumns) -> DataFrame:
    from pyspark.sql import functions as F

    named = [name for name in (columns.item_id, columns.title, columns.category, columns.available) if name]
    attributes = [name for name in types if name not in named] if columns.attributes is None else columns.attributes
    attributes = [name for name in attributes if name in types]

    def clean(text: str | None) -> str:
        return clean_text(text, MAX_TEXT_CHARS)

    def text(name: str) -> Column:
        return map_text(clean, _as_text(name, types[name])) if name in types else F.lit("")

    # Two names may be one once they are cleaned, and a map has a key once.
    keys = {clean(name): name for name in reversed(attributes) if clean(name)}
    pairs = [part for key, name in reversed(keys.items()) for part in (F.lit(key), text(name))]
    every = F.create_map(*pairs) if pairs else F.create_map()
    available = F.lower(F.trim(F.col(quoted(columns.available)).cast("string"))) if columns.available in types else None
    return frame.select(
        (coerce.to_id(F.col(quoted(columns.item_id)), types[columns.item_id])[0] if columns.item_id in types
         else F.lit(None).cast("string")).alias("item_id"),
        text(columns.title).alias("title"),
        text(columns.category).alias("category"),
        F.map_filter(every.cast("map<string,string>"), lambda _, value: value != "").alias("attributes"),
        (F.lit(None).cast("boolean") if available is None
         else F.when(available.isin(*_TRUE), True).when(available.isin(*_FALSE), False)).alias("available"),
        MALFORMED, SOURCE, BLOCK,
    )  # fmt: skip


def _as_text(name: str, kind: str) -> Column:
    """An attribute as a person writes it: 42 for a float column's 42.0, an ISO time for a time."""
    from pyspark.sql import functions as F

    column = F.col(quoted(name))
    if coerce.is_number(kind):
        whole, fraction = coerce.to_id(column, kind)
        return whole if fraction is None else F.coalesce(whole, fraction)
    if kind.startswith("timestamp["):
        return coerce.to_time(column, kind)[0].cast("string")
    # Only the beginning goes to Python: a cell may hold a megabyte.
    return F.substring(column.cast("string"), 1, 4 * MAX_TEXT_CHARS)
