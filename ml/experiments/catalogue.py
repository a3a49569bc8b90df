"""Every experiment, the cheapest and most telling first (paper table 3, figures 5 and 6).

All of them run the paper's own method (one answer, mixup) on the temporal split and the whole log, on adapters of the
same few prompts (`experiments.prompts`), so that what differs between two rows is what the row names. Zero-shot and
low resource have other systems beside ours; they come last, since those may take long. Cold start (figure 4) needs no
model of its own: it is a group of `evaluation_breakdowns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ml.settings import Settings

BASE, WHOLE_SAMPLE = "base", "low_resource_1"
_NO_MEMORY = {"max_memory_products": 0}
_NO_ATTRIBUTES: dict[str, Any] = {"attributes": []}


@dataclass(frozen=True)
class Experiment:
    """One experiment: what it is called, what it asks, and what differs from `base`.

    `against` names the experiment its differences are from, None for none. `prompts` are changed settings of `prompts`,
    for the fit and the questions; `lists` says which lists are joined; `titles` which encoder reads titles; `share` how
    much of the training part everything is fitted on; `category` where the test examples are from, None for the
    category the models are fitted on.
    """

    name: str
    kind: Literal["ablation", "zero_shot", "low_resource"]
    question: str
    against: str | None
    prompts: Mapping[str, Any] = field(default_factory=dict)
    lists: Literal["both", "title", "id"] = "both"
    titles: Literal["title_encoder", "text_encoder"] = "title_encoder"
    share: float = 1.0
    category: str | None = None


_ABLATIONS = (
    Experiment(BASE, "ablation", "the paper's method, which the ablations are compared with", None),
    Experiment("no_title_embedding", "ablation", "without the title embedding: the id list alone", BASE, lists="id"),
    Experiment("no_id_embedding", "ablation", "without the id embedding: the title list alone", BASE, lists="title"),
    Experiment("text_encoder", "ablation", "the memory's text encoder in the title encoder's place", BASE,
               titles="text_encoder"),
    Experiment("no_memory", "ablation", "without the query-product memory", BASE, _NO_MEMORY),
    Experiment("no_memory_no_id", "ablation", "without the memory and the id embedding", BASE, _NO_MEMORY, "title"),
    Experiment("no_attributes", "ablation", "without product attributes", BASE, _NO_ATTRIBUTES),
    Experiment("no_memory_no_id_no_attributes", "ablation", "without memory, id embedding and product attributes",
               BASE, {**_NO_MEMORY, **_NO_ATTRIBUTES}, "title"),
)  # fmt: skip


def experiments(settings: Settings) -> list[Experiment]:
    """Return the experiments of a shop, in the order they are run."""
    source = source_category(settings)
    others = [category for category in settings.categories if category != source]
    zero_shot = [
        Experiment(
            f"zero_shot_{category}", "zero_shot", f"{source}'s models on {category}, of which they saw nothing (N = 0)",
            None, lists="title", category=category,
        )
        for category in others
    ]  # fmt: skip
    whole = Experiment(WHOLE_SAMPLE, "low_resource", "the whole training sample, which shares are compared with", None)
    shares = [
        Experiment(f"low_resource_{share:g}", "low_resource", f"{share:.0%} of the training sample", WHOLE_SAMPLE,
                   share=share)
        for share in sorted(settings.experiments.shares, reverse=True)
    ]  # fmt: skip
    return [*_ABLATIONS, *zero_shot, *([whole, *shares] if shares else [])]


def other_systems(settings: Settings, experiment: Experiment) -> list[str]:
    """Return what is ranked beside ours, the fast systems first; ablations are about ours alone.

    Zero-shot: what knows items by their text, so Recformer where `evaluation.more_systems` has it, fitted where ours
    was; and popularity, which is fitted on nothing but counts the asked category's own training steps, which the
    others never see. Low resource: the references and all of `evaluation.more_systems`, on the same share.
    """
    more = settings.evaluation.more_systems
    if experiment.kind == "zero_shot":
        return ["popularity", *(name for name in more if name.startswith("recformer"))]
    return ["popularity", "markov", "item_knn", "core", *more] if experiment.kind == "low_resource" else []


def source_category(settings: Settings) -> str:
    """Return the category whose models the experiments are about."""
    return settings.experiments.category or settings.categories[0]
