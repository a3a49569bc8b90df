"""How a published table did: yesterday's lists against what those customers bought today."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.errors import BadInputError
from ml.evaluation.bootstrap import interval
from ml.settings import EvaluationSettings
from ml.tables import TABLES


def realised(
    recommendations: pa.Table,
    purchases: pa.Table,
    settings: EvaluationSettings,
    k: int,
    category: str | None = None,
) -> pa.Table:
    """Return rows of `realised` for one category: by source of the customers' lists, and for all of them.

    `recommendations` is the table published for the day before (user_id, rank, item_id, source), `purchases` what was
    bought in the category on the day (user_id, item_id). For each customer who bought and has a list, with B distinct
    items bought and hits the distinct bought items among the list's first `k`:

    - recall = hits / min(k, B);
    - ndcg = Σ over hits of 1 / log2(rank + 1), divided by the same sum over ranks 1 … min(k, B);
    - mrr = 1 / rank of the first hit, 0 without one within `k`.

    Means are over those customers (`customers`). Buyers without a list are not part of a mean; `buyers`, the same in
    every row, says how many bought at all. No such customer gives nulls.
    Raises BadInputError where the category is not given and cannot be read off a `category` column.
    """
    name = category or _only_category(recommendations)
    bought: dict[str, set[str]] = {}
    for user, item in zip(purchases["user_id"].to_pylist(), purchases["item_id"].to_pylist(), strict=True):
        bought.setdefault(user, set()).add(item)
    values = _values_by_source(recommendations, bought, k)
    schema = TABLES["realised"].schema
    rows = []
    for source in ["all", *sorted(source for source in values if source != "all")]:
        for number, metric in enumerate(("recall", "ndcg", "mrr")):
            numbers = np.array([row[number] for row in values.get(source, [])])
            value, low, high = (x if np.isfinite(x) else None for x in interval(numbers, settings))
            rows.append(
                {"category": name, "source": source, "metric": metric, "value": value, "low": low, "high": high,
                 "customers": len(numbers), "buyers": len(bought)}
            )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema)


def _only_category(recommendations: pa.Table) -> str:
    names = recommendations["category"].unique().to_pylist() if "category" in recommendations.column_names else []
    if len(names) != 1:
        raise BadInputError(f"realised: expected recommendations of one category, or its name, found {names}")
    return names[0]


def _values_by_source(
    recommendations: pa.Table, bought: dict[str, set[str]], k: int
) -> dict[str, list[tuple[float, float, float]]]:
    """Return the three metrics of every customer with a list, by its source and under 'all'."""
    columns = recommendations.select(["user_id", "rank", "item_id", "source"])
    buyers = pa.array(sorted(bought), columns.schema.field("user_id").type)
    kept = columns.filter(pc.field("user_id").isin(buyers) & (pc.field("rank") <= k))
    lists: dict[str, dict[str, int]] = {}
    sources: dict[str, str] = {}
    for user, rank, item, source in zip(*(column.to_pylist() for column in kept.columns), strict=True):
        lists.setdefault(user, {})[item] = rank
        sources[user] = source
    values: dict[str, list[tuple[float, float, float]]] = {}
    for user in sorted(lists):
        row = customer_metrics(lists[user], bought[user], k)
        values.setdefault("all", []).append(row)
        values.setdefault(sources[user], []).append(row)
    return values


def customer_metrics(ranks: dict[str, int], bought: set[str], k: int) -> tuple[float, float, float]:
    """Return recall, ndcg and mrr at `k` of one list (item → rank) against the items bought."""
    hits = sorted(rank for item, rank in ranks.items() if item in bought and rank <= k)  # one order: one sum
    possible = min(k, len(bought))
    gain = sum(1 / np.log2(rank + 1) for rank in hits)
    ideal = sum(1 / np.log2(rank + 1) for rank in range(1, possible + 1))
    return len(hits) / possible, float(gain / ideal), 1 / min(hits) if hits else 0.0
