"""What the language model's answers add to the ranker: a few weights on top of it, fitted where its scores are honest.

Stacking (Wolpert, Neural Networks 1992): few validation purchases can be asked about, as every answer costs seconds. A
network that reads answers beside everything else learns its few examples by heart and gets worse for everybody
(docs/log.md). So the ranker is fitted without answers on all validation purchases, and the weights of the answers on
scores of rankers that have not seen the purchase in question, held near zero: answers that say nothing weigh nothing.
Imports torch: import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from ml.evaluation.metrics import ndcg_at_k
from ml.ranking.linear import fit_weights
from ml.ranking.ranker import AnswerWeights, RankedExample, Ranker, fit_ranker
from ml.settings import RankerSettings

FOLDS = 5
PENALTY = 3.0
"""Of the squared weights, beside the summed loss: the fewer purchases, the nearer to zero. With the 81 of the real log
that is 0.04 of the mean loss; from 0.001 to 0.1 made no difference there that could be told (docs/log.md)."""


@dataclass
class Questions:
    """Validation purchases as questions, None where the bought item is no candidate.

    `answered` are those of `plain`, by place, that the language model was asked about too.
    """

    plain: list[RankedExample | None] = field(default_factory=list)
    answered: dict[int, RankedExample | None] = field(default_factory=dict)

    def usable(self) -> int:
        """Return how many a ranker can learn from."""
        return sum(example is not None for example in self.plain)

    def extend(self, others: Questions) -> None:
        """Add the questions of another category."""
        start = len(self.plain)
        self.plain += others.plain
        self.answered |= {start + place: example for place, example in others.answered.items()}


@dataclass(frozen=True)
class Stacked:
    """The ranker, and the bought item's rank in the questions, by rankers that have not seen it.

    `ranks_with` and `ranks_without` the answer are of the answered questions, empty where no answer could be used;
    `unseen_ranks` of all questions, without answers, empty unless asked for. NaN where the item is no candidate.
    """

    ranker: Ranker
    ranks_with: list[float]
    ranks_without: list[float]
    unseen_ranks: list[float]


def fit_stacked(questions: Questions, settings: RankerSettings, rank_all: bool = False) -> Stacked:
    """Fit the ranker on all questions, then the weights of the answers; raises as `fit_ranker` does.

    They are kept where they raise NDCG@10 of purchases that neither has seen, or always (`use_answers`).
    `rank_all`: rank in every question, not only in the answered ones; without answers that takes as many fits more as
    there are folds.
    """
    ranker = fit_ranker([example for example in questions.plain if example is not None], settings)
    some_answer = any(questions.answered.values())
    plain, answered = _unseen_scores(questions, settings) if some_answer or rank_all else ({}, {})
    unseen = [_rank(plain.get(place), example) for place, example in enumerate(questions.plain)] if rank_all else []
    if not some_answer:
        return Stacked(ranker, [], [], unseen)
    ranks_with, ranks_without = [], []
    for place, example in questions.answered.items():
        ranks_without.append(_rank(plain.get(place), questions.plain[place]))
        others = {p: scores for p, scores in answered.items() if p % FOLDS != place % FOLDS}
        scores = answered.get(place)
        if example is not None and scores is not None and others:
            assert example.answer is not None
            scores = scores + _fit_weights(others, questions.answered).scores(example.answer)
        ranks_with.append(_rank(scores, example))
    gain = ndcg_at_k(ranks_with, 10).mean() - ndcg_at_k(ranks_without, 10).mean()
    if answered and (settings.use_answers == "always" or gain > 0):  # a lone purchase is in no other's fold
        ranker.answers = _fit_weights(answered, questions.answered)
    return Stacked(ranker, ranks_with, ranks_without, unseen)


def _unseen_scores(
    questions: Questions, settings: RankerSettings
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Return the scores of every question's candidates, and of the answered ones' with those the answer brought."""
    plain: dict[int, np.ndarray] = {}
    answered: dict[int, np.ndarray] = {}
    for fold in range(FOLDS):
        known = [e for place, e in enumerate(questions.plain) if e is not None and place % FOLDS != fold]
        if not known:
            continue
        ranker = fit_ranker(known, settings)
        for scores, examples in ((plain, dict(enumerate(questions.plain))), (answered, questions.answered)):
            for place, example in examples.items():
                if example is not None and place % FOLDS == fold:
                    scores[place] = ranker.scores(example.features)
    return plain, answered


def _fit_weights(scores: Mapping[int, np.ndarray], examples: Mapping[int, RankedExample | None]) -> AnswerWeights:
    """Return weights that make the bought item likelier among its candidates, behind the given scores."""
    asked = [(base, example) for place, base in scores.items() if (example := examples[place]) is not None]
    tables = [example.answer for _, example in asked if example.answer is not None]
    result = AnswerWeights()
    result.fit_scale(np.concatenate(tables))
    described = result.scaled(np.concatenate(tables))
    base = torch.from_numpy(np.concatenate([own for own, _ in asked]))
    lengths, targets = [len(own) for own, _ in asked], [example.target for _, example in asked]
    result.get_buffer("weights").copy_(fit_weights(described, base, lengths, targets, PENALTY))
    return result


def _rank(scores: np.ndarray | None, example: RankedExample | None) -> float:
    """Return the bought item's rank, NaN where it is no candidate or was not scored."""
    return float("nan") if scores is None or example is None else example.rank(scores)
