"""From raw rows to clean events and rejected rows: every raw row ends in exactly one of them, on exactly one day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from ml.errors import BadInputError
from ml.log.coerce import HIDDEN, MAX_ID_CHARS
from ml.log.raw import COLUMNS, LINE, UNREAD
from ml.log.searches import SESSION_GAP_MINUTES, with_search_categories
from ml.log.text_column import map_text
from ml.settings import OTHER, LogSettings
from ml.tables import TABLES
from ml.text import normalise_query

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

ACTIONS = ("search", "click", "purchase")
MAX_QUERY_CHARS = 1000
"""Of a longer search text only this much is normalised; `query_original` keeps it whole."""

MALFORMED_LINE = "malformed line"
MISSING_EVENT_ID = "missing event_id"
MISSING_USER_ID = "missing user_id"
MISSING_EVENT_TIME = "missing event_time"
MISSING_ACTION = "missing action"
UNPARSEABLE_TIME = "event_time is not a time"
WRONG_TYPE = "value of the wrong type"
ID_TOO_LONG = f"id longer than {MAX_ID_CHARS} characters"
ID_CONTROL = "id with control characters"
OUTSIDE_WINDOW = "event day outside its partition's window"
UNKNOWN_ACTION = "unknown action"
SEARCH_WITHOUT_QUERY = "search without query"
NO_ITEM = "click or purchase without item"
NOT_IN_CATALOGUE = "item not in the catalogue"
BAD_POSITION = "position below 1"
DUPLICATE = "duplicate"
REASONS = (
    MALFORMED_LINE, UNPARSEABLE_TIME, WRONG_TYPE, MISSING_EVENT_ID, MISSING_USER_ID, MISSING_EVENT_TIME,
    MISSING_ACTION, UNKNOWN_ACTION, ID_TOO_LONG, ID_CONTROL, OUTSIDE_WINDOW, SEARCH_WITHOUT_QUERY, NO_ITEM,
    NOT_IN_CATALOGUE, BAD_POSITION, DUPLICATE,
)  # fmt: skip
"""Every reason, in the order in which they are tried: a row has the first that applies."""

_IDS = ("event_id", "user_id", "session_id", "item_id")


def clean(
    raw: DataFrame,
    items: DataFrame,
    days: Sequence[str],
    settings: LogSettings,
    session_gap_minutes: int = SESSION_GAP_MINUTES,
) -> tuple[DataFrame, DataFrame]:
    """Return `interactions` and `rejected_interactions` of `days`, each with `date`.

    `raw` comes from `ml.log.raw.read_raw` over at least `partition_window(days, settings.late_days)`; `items` has one
    row per `item_id`, with `category`. The day of an event is its time in the shop's zone. It may stand in the raw
    partition of the day before, of its own day or of `late_days` after it. A rejected row belongs to its event's
    day, or to its partition's where its own is unknown or out of that window. Of several sound rows with one
    event_id in a day's window the first by event_time, source file and content stays. So days made one by one and
    days made together are the same, and every raw row is in one day's tables once.
    """
    from pyspark.sql import functions as F

    judged = _judge(_with_days(raw, settings), items, settings).filter(F.col("date").isin(list(days)))
    rejected = judged.filter(F.col("reason").isNotNull()).select(
        "date", F.col("event_id").substr(1, MAX_ID_CHARS).alias("event_id"), "reason", "source_file", _as_json()
    )
    events = judged.filter(F.col("reason").isNull()).select(
        "date",
        *("event_id", "user_id", "session_id", "event_time", "action"),
        _item_step("item_id", "item_id"),
        F.when(F.col("_query") != "", F.col("_query")).alias("query"),
        F.replace(F.col("query"), F.lit("\0"), F.lit("")).alias("query_original"),
        _item_step("position", "position"),
        _item_step("_category", "category"),
    )
    interactions = with_search_categories(events, session_gap_minutes)
    return (
        interactions.select("date", *TABLES["interactions"].names),
        rejected.select("date", *TABLES["rejected_interactions"].names),
    )


def check_reject_share(
    interactions: DataFrame, rejected: DataFrame, settings: LogSettings
) -> dict[str, dict[str, int]]:
    """Return each day's rows by reason ('accepted' for clean events), or raise where too many are rejected.

    BadInputError names every day whose share of rejected rows is above `settings.max_reject_share`, with counts by
    reason. Both frames are computed: persist them first if they are published after.
    """
    from pyspark.sql import functions as F

    accepted = interactions.select("date", F.lit("accepted").alias("reason"))
    rows = accepted.unionByName(rejected.select("date", "reason")).groupBy("date", "reason").count().collect()
    counts: dict[str, dict[str, int]] = {}
    for row in sorted(rows):
        counts.setdefault(row["date"], {})[row["reason"]] = row["count"]
    bad = []
    for day, by_reason in counts.items():
        total = sum(by_reason.values())
        dropped = {reason: n for reason, n in by_reason.items() if reason != "accepted"}
        if sum(dropped.values()) > settings.max_reject_share * total:
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items(), key=lambda pair: -pair[1]))
            bad.append(f"{day}: {sum(dropped.values())} of {total} rows ({reasons})")
    if bad:
        raise BadInputError(
            f"More than log.max_reject_share ({settings.max_reject_share:.0%}) of the raw log's rows break its "
            "contract; none of these days was published. Mend the log or raise the setting. " + "; ".join(bad)
        )
    return counts


def _item_step(column: str, name: str) -> Column:
    """`column` of clicks and purchases: a search has no item, so neither its position nor its category."""
    from pyspark.sql import functions as F

    return F.when(F.col("action") != "search", F.col(column)).alias(name)


def _with_days(raw: DataFrame, settings: LogSettings) -> DataFrame:
    """Add `_partition`, the raw partition's day, `_day`, the event's (null if out of its window), and `date`."""
    from pyspark.sql import functions as F

    partition = F.regexp_extract("source_file", r"^event_date=(\d{4}-\d{2}-\d{2})", 1).cast("date")
    own = F.to_date(F.from_utc_timestamp("event_time", settings.time_zone))
    # Day D reads partitions D-1 ... D+late_days, so partition P holds events of P-late_days ... P+1.
    inside = F.datediff(own, "_partition").between(-settings.late_days, 1)
    frame = raw if UNREAD in raw.columns else raw.withColumn(UNREAD, F.create_map().cast("map<string,string>"))
    frame = frame.withColumn("_partition", partition).withColumn("_day", F.when(inside, own))
    return frame.withColumn("date", F.coalesce("_day", "_partition").cast("string"))


def _judge(rows: DataFrame, items: DataFrame, settings: LogSettings) -> DataFrame:
    """Add `reason` (null for sound rows), `_query` (normalised) and `_category` (the item's)."""
    from pyspark.sql import functions as F

    known = items.select("item_id", F.coalesce("category", F.lit(OTHER)).alias("_category"))
    judged = rows.withColumn("_query", map_text(normalise_query, F.substring("query", 1, MAX_QUERY_CHARS))).join(
        known, "item_id", "left"
    )
    judged = judged.withColumn("reason", _broken_rule())
    return judged.withColumn("reason", F.coalesce("reason", F.when(_is_repeated(settings), F.lit(DUPLICATE))))


def _broken_rule() -> Column:
    """The first of `REASONS`, short of duplicates, that applies to a row."""
    from pyspark.sql import functions as F

    def blank(name: str) -> Column:
        return F.coalesce(F.trim(name), F.lit("")) == ""

    def any_id(test: Callable[[Column], Column]) -> Column:
        return reduce(or_, [F.coalesce(test(F.col(name)), F.lit(False)) for name in _IDS])

    unread, action = F.col(UNREAD), F.col("action")
    item_step = action != "search"
    rules = {
        MALFORMED_LINE: F.map_contains_key(unread, LINE),
        UNPARSEABLE_TIME: F.map_contains_key(unread, "event_time"),
        WRONG_TYPE: F.size(unread) > 0,
        MISSING_EVENT_ID: blank("event_id"),
        MISSING_USER_ID: blank("user_id"),
        MISSING_EVENT_TIME: F.col("event_time").isNull(),
        MISSING_ACTION: blank("action"),
        UNKNOWN_ACTION: ~action.isin(*ACTIONS),
        ID_TOO_LONG: any_id(lambda column: F.length(column) > MAX_ID_CHARS),
        ID_CONTROL: any_id(lambda column: column.rlike(HIDDEN)),
        OUTSIDE_WINDOW: F.col("_day").isNull(),
        SEARCH_WITHOUT_QUERY: ~item_step & (F.col("_query") == ""),
        NO_ITEM: item_step & blank("item_id"),
        NOT_IN_CATALOGUE: item_step & F.col("_category").isNull(),
        BAD_POSITION: item_step & (F.col("position") < 1),
    }
    return F.coalesce(*(F.when(broken, F.lit(reason)) for reason, broken in rules.items()))


def _is_repeated(settings: LogSettings) -> Column:
    """Whether an earlier sound row with the same event_id stands in the window of partitions the row's day is made of.

    That window is the row's own, whatever other partitions were read with it.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    order = ("event_time", "source_file", "user_id", "session_id", "action", "item_id", "query", "position")
    earlier = Window.partitionBy("event_id").orderBy(*order).rowsBetween(Window.unboundedPreceding, -1)
    partitions = F.collect_set(F.when(F.col("reason").isNull(), F.col("_partition"))).over(earlier)
    return F.exists(partitions, lambda other: F.datediff(other, "_day").between(-1, settings.late_days))


def _as_json() -> Column:
    """The raw row as JSON, column by column as far as it could be read, else as it was written."""
    from pyspark.sql import functions as F

    time = F.date_format("event_time", "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX")
    values = {name: time if name == "event_time" else F.col(name).cast("string") for name in COLUMNS}
    written = [F.coalesce(F.col(UNREAD)[name], value).alias(name) for name, value in values.items()]
    return F.to_json(F.struct(*written, F.col(UNREAD)[LINE].alias(LINE))).alias("row")
