"""Every experiment, the cheapest and most telling first (paper table 3, figures 5 and 6).

All of them run the paper's own method (one answer, mixup) on the temporal split and the whole log, on adapters of the
same few prompts (`experiments.prompts`), so that what differs between two rows is what the row names. Cold start
(figure 4) needs no model of its own: it is a group of `evaluation_breakdowns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ml.settings import Settings

BASE = "base"
_NO_MEMORY = {"max_memory_products": 0}
_NO_ATTRIBUTES: dict[str, Any] = {"attributes": []}


@dataclass(frozen=True)
class Experiment:
    """One experiment: what it is called, what it asks, and what differs from `base`.

    `prompts` are changed settings of `prompts`, for the fit and the questions; `lists` says which lists are joined;
    `titles` which encoder reads titles; `share` how much of the training part everything is fitted on; `category`
    where the test examples are from, None for the category the models are fitted on.
    """

    name: str
    kind: Literal["ablation", "zero_shot", "low_resource"]
    question: str
    prompts: Mapping[str, Any] = field(default_factory=dict)
    lists: Literal["both", "title", "id"] = "both"
    titles: Literal["title_encoder", "text_encoder"] = "title_encoder"
    share: float = 1.0
    category: str | None = None


_ABLATIONS = (
    Experiment(BASE, "ablation", "the paper's method, which the others are compared with"),
    Experiment("no_title_embedding", "ablation", "without the title embedding: the id list alone", lists="id"),
    Experiment("no_id_embedding", "ablation", "without the id embedding: the title list alone", lists="title"),
    Experiment("text_encoder", "ablation", "the memory's text encoder in the title encoder's place",
               titles="text_encoder"),
    Experiment("no_memory", "ablation", "without the query-product memory", _NO_MEMORY),
    Experiment("no_memory_no_id", "ablation", "without the memory and the id embedding", _NO_MEMORY, "title"),
    Experiment("no_attributes", "ablation", "without product attributes", _NO_ATTRIBUTES),
    Experiment("no_memory_no_id_no_attributes", "ablation", "without memory, id embedding and product attributes",
               {**_NO_MEMORY, **_NO_ATTRIBUTES}, "title"),
)  # fmt: skip


def experiments(settings: Settings) -> list[Experiment]:
    """Return the experiments of a shop, in the order they are run."""
    source = source_category(settings)
    others = [category for category in settings.categories if category != source]
    zero_shot = [
        Experiment(
            f"zero_shot_{category}", "zero_shot", f"{source}'s models on {category}, of which they saw nothing (N = 0)",
            lists="title", category=category,
        )
        for category in others
    ]  # fmt: skip
    low_resource = [
        Experiment(f"low_resource_{share:g}", "low_resource", f"{share:.0%} of the training sample", share=share)
        for share in sorted(settings.experiments.shares, reverse=True)
    ]
    return [*_ABLATIONS, *zero_shot, *low_resource]


def source_category(settings: Settings) -> str:
    """Return the category whose models the experiments are about."""
    return settings.experiments.category or settings.categories[0]
