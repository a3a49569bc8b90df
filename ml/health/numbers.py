"""The numbers of one night: who was covered, how the lists were made, how far they moved, how they did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ml.tables import TABLES
from ml.warehouse import Warehouse, parquet_views

_LISTS = """
    SELECT 'all' AS source, metric, value, customers FROM (
        SELECT count(DISTINCT user_id) AS customers, count(DISTINCT item_id) AS items,
               count(DISTINCT user_id) FILTER (source = 'carried') AS carried,
               count(DISTINCT user_id) FILTER (source = 'popular') AS popular,
               date_diff('day', min(fitted_until)::DATE, $day::DATE) AS age
        FROM lists
    ), LATERAL (VALUES
        ('users', customers::DOUBLE), ('items', items::DOUBLE), ('carried_share', carried / nullif(customers, 0)),
        ('popular_share', popular / nullif(customers, 0)), ('model_age_days', age::DOUBLE)
    ) AS numbers(metric, value)
"""
_SCORES = """
    SELECT source, metric, value, customers FROM (
        SELECT source, count(*) AS customers, quantile_cont(score, [0.1, 0.5, 0.9]) AS q
        FROM lists WHERE rank = 1 AND source <> 'popular' GROUP BY source
    ), LATERAL (VALUES ('score_p10', q[1]), ('score_p50', q[2]), ('score_p90', q[3])) AS numbers(metric, value)
"""
_OVERLAP = """
    SELECT 'all' AS source, 'overlap' AS metric, round(avg(share), 6) AS value, count(*) AS customers FROM (
        SELECT user_id, count(*) FILTER (before.item_id IS NOT NULL) / count(*) AS share
        FROM lists LEFT JOIN before USING (user_id, item_id)
        WHERE user_id IN (SELECT user_id FROM before) GROUP BY user_id
    )
"""


def night_numbers(warehouse: Warehouse, day: str, before: str | None, categories: Sequence[str]) -> pa.Table:
    """Return the rows of `night_health` for `day`: each number of each category that has a table.

    `before` is the newest published day before it, for the overlap; None gives no overlap. The realised recall is that
    of `realised` on `day`, so of the table before. A number that cannot be told is null.
    """
    rows: list[Mapping[str, object]] = []
    for category in categories:
        tables = {"lists": warehouse.files("recommendations", date=day, category=category)}
        if not tables["lists"]:
            continue
        queries = [_LISTS, _SCORES]
        if before is not None and (files := warehouse.files("recommendations", date=before, category=category)):
            tables["before"] = files
            queries.append(_OVERLAP)
        with parquet_views(**tables) as connection:
            for query in queries:
                found = connection.execute(query, {"day": day} if "$day" in query else {}).fetchall()
                rows += [_row(category, *row) for row in found]
        rows += _realised(warehouse, day, category)
    return pa.Table.from_pylist([dict(row) for row in rows], schema=TABLES["night_health"].schema)


def _realised(warehouse: Warehouse, day: str, category: str) -> list[dict[str, object]]:
    rows = warehouse.read("realised", date=day)
    own = (pc.field("category") == category) & (pc.field("source") == "all") & (pc.field("metric") == "recall")
    return [_row(category, "all", "recall", r["value"], r["customers"]) for r in rows.filter(own).to_pylist()]


def _row(category: str, source: str, metric: str, value: float | None, customers: int) -> dict[str, object]:
    return {"category": category, "source": source, "metric": metric, "value": value, "customers": customers}
