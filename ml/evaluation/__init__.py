"""How well systems recommend (paper section 5): metrics, intervals, reference systems, one protocol, realised results.

Steps of an evaluation: `sample_examples` fixes the test rows; `purchases_only` of `ml.sequences` may thin them;
`item_examples` shows them to item models; each system is fitted on the same `item_sequences` and `rank_targets` ranks
what was bought; `evaluation_rows` and `rank_rows` make tables of the ranks.
"""

from __future__ import annotations

from ml.evaluation.bootstrap import interval, paired_interval
from ml.evaluation.breakdowns import breakdown_rows, example_groups
from ml.evaluation.core_system import CoreSystem
from ml.evaluation.differences import difference_rows
from ml.evaluation.figures import metrics_figure
from ml.evaluation.metrics import metric_values, ndcg_at_k, recall_at_k, reciprocal_rank
from ml.evaluation.protocol import ItemExamples, System, best_items, item_examples, rank_targets, sample_examples
from ml.evaluation.realised import realised
from ml.evaluation.references import ItemKNN, Markov, Popularity
from ml.evaluation.rows import compare, evaluate_ranks, evaluation_rows, rank_rows
from ml.settings import ItemEmbeddingSettings

__all__ = [
    "CoreSystem",
    "ItemExamples",
    "ItemKNN",
    "Markov",
    "Popularity",
    "System",
    "best_items",
    "breakdown_rows",
    "compare",
    "difference_rows",
    "evaluate_ranks",
    "evaluation_rows",
    "example_groups",
    "interval",
    "item_examples",
    "metric_values",
    "metrics_figure",
    "ndcg_at_k",
    "paired_interval",
    "rank_rows",
    "rank_targets",
    "realised",
    "recall_at_k",
    "reciprocal_rank",
    "references",
    "sample_examples",
]


def references(settings: ItemEmbeddingSettings) -> list[System]:
    """Return the four references, not yet fitted: popularity, first-order Markov, item-kNN, CORE."""
    return [Popularity(), Markov(), ItemKNN(), CoreSystem(settings)]
