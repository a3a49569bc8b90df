"""The model that orders candidates: a weighted sum of their features and a small network's correction of it.

Fitted on validation examples, whose targets no source has seen: on training examples every source would look better
than it is. The sum is fitted first. With fewer than `min_examples` it begins where every source's order counts alike
and leaves that as far as purchases say so: fitted from nothing on the few of one day, it found none of the next day's.
The network behind it starts at zero and is kept as far as it helps purchases that neither has seen, which takes
hundreds (docs/log.md). Both are fitted by a listwise softmax. Imports torch: import it inside functions only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from ml.errors import BadInputError, HemlineError
from ml.evaluation.metrics import ndcg_at_k
from ml.ranking.features import ANSWER_FEATURES, FEATURES
from ml.ranking.linear import fit_weights, listwise_loss
from ml.retrieval.files import load_weights, read_description
from ml.settings import RankerSettings

FORMAT = "hemline-ranker-3"
_CLIP = 6.0
"""Standard deviations beyond which a feature says no more."""
_PENALTY = 1.0
"""Of the sum's squared weights. From 0.3 to 3 made no difference on a real log from 40 purchases on (docs/log.md)."""
_FEW_BEGIN, _FEW_PENALTY = -0.5, 3.0
"""With few purchases: the weight of every source's order, and the penalty of the squared distance from there."""
_DECAY = 0.1
"""AdamW's decay of the correction's weights."""
_ALL = [*FEATURES, *ANSWER_FEATURES]


@dataclass(frozen=True)
class RankedExample:
    """One question for fitting: its candidates' features [candidates, FEATURES], and which of them was bought.

    `answer` [candidates, ANSWER_FEATURES] is what the language model says of them, None where it was not asked.
    """

    features: np.ndarray
    target: int
    answer: np.ndarray | None = None

    def rank(self, scores: np.ndarray) -> float:
        """Return the bought item's 1-based rank by the candidates' scores, ties against it."""
        return float((scores >= scores[self.target]).sum())


class AnswerWeights(nn.Module):
    """What the language model's answer adds to candidates' scores: a weighted sum; zeros until it is fitted."""

    def __init__(self) -> None:
        super().__init__()
        size = len(ANSWER_FEATURES)
        self.register_buffer("weights", torch.zeros(size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit_scale(self, answers: np.ndarray) -> None:
        """Take mean and scale from [candidates, ANSWER_FEATURES]."""
        self.get_buffer("mean").copy_(torch.from_numpy(answers.mean(axis=0)))
        self.get_buffer("scale").copy_(torch.from_numpy(np.maximum(answers.std(axis=0), 1e-3)))

    def scaled(self, answers: np.ndarray) -> torch.Tensor:
        """Return [candidates, ANSWER_FEATURES] in standard deviations."""
        centred = (torch.from_numpy(answers) - self.get_buffer("mean")) / self.get_buffer("scale")
        return centred.clamp(-_CLIP, _CLIP)

    def scores(self, answers: np.ndarray) -> np.ndarray:
        """Return float32 [candidates]."""
        return (self.scaled(answers) @ self.get_buffer("weights")).numpy()


class Ranker(nn.Module):
    """Scores candidates by their features; each is scored alone, so the order of candidates does not matter."""

    def __init__(self, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = hidden
        self.register_buffer("mean", torch.zeros(len(FEATURES)))
        self.register_buffer("scale", torch.ones(len(FEATURES)))
        self.register_buffer("weights", torch.zeros(len(FEATURES)))
        self.layers = nn.Sequential(
            nn.Linear(len(FEATURES), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )
        nn.init.zeros_(self.get_parameter("layers.5.weight"))
        nn.init.zeros_(self.get_parameter("layers.5.bias"))
        self.answers = AnswerWeights()

    @property
    def uses_answers(self) -> bool:
        """Whether the language model's answers change anything: not before their weights are fitted."""
        return bool(self.answers.get_buffer("weights").any())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return scores [candidates] of `features` [candidates, FEATURES]."""
        scaled = self.scaled(features)
        return scaled @ self.get_buffer("weights") + self.layers(scaled).squeeze(-1)

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """Return [candidates, FEATURES] in standard deviations."""
        centred = (features - self.get_buffer("mean")) / self.get_buffer("scale")
        return centred.clamp(-_CLIP, _CLIP)

    @torch.inference_mode()
    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return float32 [candidates]."""
        return self(torch.from_numpy(features)).numpy()

    def scores_of(
        self, features: Sequence[np.ndarray], answers: Sequence[np.ndarray | None] | None = None
    ) -> list[np.ndarray]:
        """Return each customer's scores, of many customers in one pass; `answers` are of those that have one."""
        if not features:
            return []
        together = self.scores(np.concatenate(features))
        apart = np.split(together, np.cumsum([len(own) for own in features])[:-1])
        added = answers or [None] * len(apart)
        return [own if a is None else own + self.answers.scores(a) for own, a in zip(apart, added, strict=True)]

    def save(self, folder: Path) -> None:
        """Write `ranker.safetensors` and `ranker.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "ranker.safetensors")
        description = {"format": FORMAT, "hidden": self.hidden, "features": _ALL}
        (folder / "ranker.json").write_text(json.dumps(description), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """Read what `save` wrote; raises BadInputError for anything else, other features included."""
        description = read_description(folder, "ranker.json", FORMAT)
        if description.get("features") != _ALL:
            raise BadInputError(f"{folder / 'ranker.json'}: fitted on other features; run `hemline train` again")
        ranker = cls(int(description["hidden"]))
        load_weights(ranker, folder / "ranker.safetensors")
        return ranker.eval()


def fit_ranker(examples: Sequence[RankedExample], settings: RankerSettings) -> Ranker:
    """Fit on most of the examples and keep the epoch with the best NDCG@10 on the others.

    Raises BadInputError where there is no example, HemlineError where a feature or the loss is not finite.
    """
    if not examples:
        raise BadInputError("ranker: no validation purchase is among the candidates that the sources propose")
    torch.manual_seed(settings.seed)
    order = np.random.default_rng(settings.seed).permutation(len(examples))
    held = max(1, int(len(order) * settings.held_out_share))
    held_out = [examples[i] for i in order[:held]]
    fitted_on = [examples[i] for i in order[held:]] or held_out
    ranker = Ranker(settings.hidden, settings.dropout)
    _fit_sum(ranker, fitted_on, len(examples) < settings.min_examples)
    return _best_epoch(ranker, fitted_on, held_out, settings)


def _fit_sum(ranker: Ranker, examples: Sequence[RankedExample], few: bool) -> None:
    features = np.concatenate([example.features for example in examples])
    finite = np.isfinite(features).all(axis=0)
    if not finite.all():
        raise HemlineError(f"ranker: feature {FEATURES[int(finite.argmin())]!r} is not finite for some candidate")
    ranker.get_buffer("mean").copy_(torch.from_numpy(features.mean(axis=0)))
    ranker.get_buffer("scale").copy_(torch.from_numpy(np.maximum(features.std(axis=0), 1e-3)))
    scaled = ranker.scaled(torch.from_numpy(features))
    begin = torch.tensor([_FEW_BEGIN if few and name.endswith("_rank") else 0.0 for name in FEATURES])
    learnt = fit_weights(scaled, scaled @ begin, *_shape(examples), penalty=_FEW_PENALTY if few else _PENALTY)
    ranker.get_buffer("weights").copy_(begin + learnt)


def _best_epoch(
    ranker: Ranker, fitted_on: list[RankedExample], held_out: list[RankedExample], settings: RankerSettings
) -> Ranker:
    """Fit the correction; the epoch before the first, without any, is one of those to choose from."""
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=settings.learning_rate, weight_decay=_DECAY)
    best, weights, waited = _ndcg(ranker.eval(), held_out), _copy(ranker), 0
    for epoch in range(settings.epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(fitted_on))
        ranker.train()
        for start in range(0, len(order), settings.batch_size):
            batch = [fitted_on[i] for i in order[start : start + settings.batch_size]]
            scores = ranker(torch.from_numpy(np.concatenate([example.features for example in batch])))
            loss = listwise_loss(scores, *_shape(batch))
            if not torch.isfinite(loss):
                raise HemlineError("ranker: the loss is not finite; lower recommendations.ranker.learning_rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        quality = _ndcg(ranker.eval(), held_out)
        waited = 0 if quality > best else waited + 1
        if quality > best:
            best, weights = quality, _copy(ranker)
        if waited >= settings.patience:
            break
    ranker.load_state_dict(weights)
    return ranker.eval()


def _copy(ranker: Ranker) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in ranker.state_dict().items()}


def _shape(examples: Sequence[RankedExample]) -> tuple[list[int], list[int]]:
    """Return the questions' numbers of candidates and the places of the bought ones."""
    return [len(example.features) for example in examples], [example.target for example in examples]


def _ndcg(ranker: Ranker, examples: Sequence[RankedExample]) -> float:
    asked = zip(examples, ranker.scores_of([example.features for example in examples]), strict=True)
    return float(ndcg_at_k([example.rank(scores) for example, scores in asked], 10).mean())
