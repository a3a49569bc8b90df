"""How systems, metrics and views are called where people read them."""

from __future__ import annotations

SYSTEMS = {
    "ours": "ours (fusion)",
    "ours_mixup": "ours (the paper's mixup)",
    "recformer_queries": "Recformer with queries",
    "recformer": "Recformer",
    "core": "CORE",
    "bert4rec": "BERT4Rec",
    "sasrec": "SASRec",
    "nextitnet": "NextItNet",
    "gru4rec": "GRU4Rec",
    "item_knn": "item-kNN",
    "markov": "Markov",
    "popularity": "popularity",
}
"""In the order of tables and figures."""
ABOUT = {
    "ours (fusion)": "candidates of the language model, the query memory, CORE, SASRec, titles, item-kNN and Markov, "
    "ordered by a small ranker that is fitted on validation purchases",
    "ours (the paper's mixup)": "the language model names an item and writes a title; the first N places are filled by "
    "item vectors around that item, the others by vectors of titles around that title",
    "Recformer": "a text encoder that reads the history as its items' attributes; with queries, the searches too",
    "CORE, SASRec, BERT4Rec, NextItNet, GRU4Rec": "neural networks that read the history as item ids",
    "item-kNN": "items that the same customers touched, weighted by how recent",
    "Markov": "what most often followed the newest item",
    "popularity": "the same list for everybody: most touched in the last seven days of training",
}
"""What each system is, in words."""
SPLITS = {"temporal": "temporal split", "nightly": "the night before", "leave_one_out": "leave-one-out"}
ACTIONS = {"all": "whole log", "purchases_only": "purchases only"}


def metric_name(metric: str, k: int) -> str:
    """Return a metric as a heading."""
    return {"recall": f"Recall@{k}", "ndcg": f"NDCG@{k}", "mrr": "MRR"}[metric]


def system_name(system: str, present: set[str]) -> str:
    """Return a system's name; `ours` is the mixup where no fusion stands beside it."""
    if system == "ours" and "ours_mixup" not in present:
        return "ours"
    return SYSTEMS.get(system, system)


def in_order(systems: set[str]) -> list[str]:
    """Return the systems in the order of tables: known ones first, then the others by name."""
    order = list(SYSTEMS)
    return sorted(systems, key=lambda name: (order.index(name) if name in SYSTEMS else len(order), name))
