"""Ranks as rows of the evaluation tables, and systems compared on the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from ml.errors import BadInputError
from ml.evaluation.bootstrap import interval, paired_interval
from ml.evaluation.metrics import Ranks, as_ranks, metric_values
from ml.settings import EvaluationSettings
from ml.tables import TABLES


def evaluate_ranks(ranks: Ranks, settings: EvaluationSettings) -> list[dict[str, object]]:
    """Return per metric its name, k, mean, interval and number of examples; ranks None or NaN count as 0.

    A metric of no examples is NaN, and so are the ends of the interval of fewer than two.
    """
    rows = []
    for metric, values in metric_values(ranks, settings.k).items():
        value, low, high = interval(values, settings)
        rows.append(
            {"metric": metric, "k": settings.k, "value": value, "low": low, "high": high, "examples": len(values)}
        )
    return rows


def evaluation_rows(
    system: str,
    split: str,
    actions: str,
    candidates: str,
    ranks: Ranks,
    made: Mapping[str, object],
    settings: EvaluationSettings,
) -> pa.Table:
    """Return one system's metrics in the schema of `evaluation_metrics`; `made` are the columns of `ml.origins`."""
    names = {"system": system, "split": split, "actions": actions, "candidates": candidates}
    rows = [{**names, **made, **row} for row in evaluate_ranks(ranks, settings)]
    return pa.Table.from_pylist(rows, schema=TABLES["evaluation_metrics"].schema)


def rank_rows(
    system: str, split: str, actions: str, candidates: str, example_ids: Sequence[str], ranks: Ranks
) -> pa.Table:
    """Return one system's ranks in the schema of `evaluation_ranks`: null where the target never ranks."""
    values = as_ranks(ranks)
    if len(values) != len(example_ids):
        raise BadInputError(f"{system}: {len(values)} ranks for {len(example_ids)} examples")
    names = {"system": system, "split": split, "actions": actions, "candidates": candidates}
    rows = [
        {**names, "example_id": example, "rank": int(rank) if np.isfinite(rank) else None}
        for example, rank in zip(example_ids, values, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["evaluation_ranks"].schema)


def compare(ours: Ranks, other: Ranks, settings: EvaluationSettings) -> dict[str, tuple[float, float, float]]:
    """Return per metric the mean lead of `ours` over `other` on the same examples, with its paired interval."""
    first, second = metric_values(ours, settings.k), metric_values(other, settings.k)
    return {metric: paired_interval(first[metric], second[metric], settings) for metric in first}
