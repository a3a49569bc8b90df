"""Ours against every other system on the same test examples: paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ml.errors import BadInputError
from ml.evaluation.metrics import metric_values
from ml.evaluation.rows import compare
from ml.settings import EvaluationSettings
from ml.tables import TABLES

OURS = "ours"


def difference_rows(ranks: pa.Table, settings: EvaluationSettings) -> pa.Table:
    """Return the rows of `evaluation_differences` for rows of `evaluation_ranks`.

    Every system is compared on the examples of `ours` in the same split, actions and candidates; a view without ours
    has no rows. Raises BadInputError where a system scored other examples than ours did.
    """
    rows = []
    for view, systems in ranks_by_view(ranks).items():
        own = systems.get(OURS)
        for system, other in systems.items():
            if own is None or system == OURS:
                continue
            if other.keys() != own.keys():
                raise BadInputError(f"{system} and {OURS} did not score the same examples of {view}")
            names = sorted(own)
            first, second = [own[name] for name in names], [other[name] for name in names]
            means = {metric: values.mean() for metric, values in metric_values(second, settings.k).items()}
            for metric, (value, low, high) in compare(first, second, settings).items():
                rows.append(
                    {
                        **dict(zip(("split", "actions", "candidates"), view, strict=True)),
                        "system": system, "metric": metric, "k": settings.k, "examples": len(names),
                        "value": value, "low": low, "high": high,
                        "ratio": value / means[metric] if means[metric] else None,
                    }
                )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=TABLES["evaluation_differences"].schema)


def ranks_by_view(ranks: pa.Table) -> Mapping[tuple[str, str, str], dict[str, dict[str, int | None]]]:
    """Return (split, actions, candidates) → system → example_id → rank."""
    views: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    columns = [ranks[name].to_pylist() for name in ("split", "actions", "candidates", "system", "example_id", "rank")]
    for split, actions, candidates, system, example, rank in zip(*columns, strict=True):
        views.setdefault((split, actions, candidates), {}).setdefault(system, {})[example] = rank
    return views
