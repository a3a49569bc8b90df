"""Whether a newly fitted model may replace the one in use, from both models' scores of the same examples.

Arrays in, a decision with its reason out: `ml.fits.gate` loads the models, scores them and keeps the decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ml.errors import BadInputError
from ml.settings import EvaluationSettings, PromotionSettings

Verdict = Literal["promoted", "refused", "unchanged"]


@dataclass(frozen=True)
class Decision:
    """What becomes of a challenger, why, and the numbers behind it.

    `guardrail` names the first condition that it broke: such a model must not serve, whatever there is beside it.
    Means and difference (challenger minus champion, with the ends of its interval) are of `metric`, higher is better;
    None where nothing was compared.
    """

    verdict: Verdict
    reason: str
    guardrail: str | None = None
    metric: str | None = None
    examples: int = 0
    challenger: float | None = None
    champion: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None

    @property
    def promoted(self) -> bool:
        """Whether the challenger is to serve."""
        return self.verdict == "promoted"

    def numbers(self) -> dict[str, float]:
        """Return what was measured, under the names that MLflow's metrics have; empty where nothing was."""
        names = ("challenger", "champion", "difference", "low", "high", "margin")
        values = {f"promotion_{name}": getattr(self, name) for name in names}
        known = {name: float(value) for name, value in values.items() if value is not None and np.isfinite(value)}
        return known | ({"promotion_examples": float(self.examples)} if self.examples else {})


def decide(
    challenger: npt.ArrayLike,
    champion: npt.ArrayLike | None,
    *,
    metric: str,
    margin: float,
    promotion: PromotionSettings,
    evaluation: EvaluationSettings,
    without_champion: str = "no champion",
) -> Decision:
    """Decide from float [n] scores of the same n examples, higher is better.

    Promoted if the lower end of the paired bootstrap interval of challenger minus champion is not below minus
    `margin`; with fewer than `promotion.min_examples` examples, if their mean difference is not. `champion` None:
    nothing to compare with, for the reason `without_champion`; the challenger is promoted. A challenger with a score
    that is not finite is refused always, a champion with one is replaced. Raises BadInputError where the two do not
    hold the same number of examples.
    """
    from ml.evaluation.bootstrap import paired_interval

    own = np.asarray(challenger, np.float64)
    if not np.isfinite(own).all():
        broken = int((~np.isfinite(own)).sum())
        return refused("its scores are finite", f"{broken} of {len(own)} values of {metric} are not numbers")
    if champion is None:
        return Decision("promoted", without_champion, metric=metric, examples=len(own), challenger=_mean(own))
    other = np.asarray(champion, np.float64)
    if own.shape != other.shape:
        raise BadInputError(f"promotion: scores of {own.shape} and {other.shape} examples; expected the same examples")
    if not len(own):
        return Decision("promoted", "there is no validation example to compare it on", metric=metric, margin=margin)
    if not np.isfinite(other).all():
        reason = f"the champion's {metric} is not finite on these examples"
        return Decision("promoted", reason, metric=metric, examples=len(own), challenger=_mean(own), margin=margin)
    difference, low, high = paired_interval(own, other, evaluation)
    few = len(own) < promotion.min_examples
    worst, words = (difference, "mean difference") if few else (low, "lower end")
    passed = worst >= -margin
    ends = "too few for an interval" if few else f"{evaluation.confidence:.0%} interval [{low:+.4f}, {high:+.4f}]"
    reason = (
        f"{metric} {own.mean():.4f} against {other.mean():.4f} of the champion on {len(own)} validation examples: "
        f"{difference:+.4f}, {ends}; the {words} is {'not ' if passed else ''}below the margin of -{margin:g}"
    )
    ends_of = (None, None) if few else (low, high)
    return Decision(
        "promoted" if passed else "refused", reason, None, metric, len(own), _mean(own), _mean(other), difference,
        *ends_of, margin,
    )  # fmt: skip


def refused(guardrail: str, reason: str) -> Decision:
    """Return the decision on a challenger that broke `guardrail`."""
    return Decision("refused", f"it must hold that {guardrail}: {reason}", guardrail)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
