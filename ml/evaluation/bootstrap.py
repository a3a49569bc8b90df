"""Bootstrap intervals of a mean and of a paired difference, by SciPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml.errors import BadInputError
from ml.settings import EvaluationSettings

_CELLS = 4_000_000
"""Resampled values held at once."""


def interval(values: npt.ArrayLike, settings: EvaluationSettings) -> tuple[float, float, float]:
    """Return the mean of `values` [n] and the ends of its percentile bootstrap interval.

    The examples are resampled, `settings.resamples` times, from `settings.seed`; `settings.confidence` is the share
    of resampled means inside. The percentile method is defined for every sample (a BCa interval is not where all but
    one value are equal, which happens with rare hits). Too few values for an interval give NaN: (NaN, NaN, NaN) for
    none, (value, NaN, NaN) for one. Equal values give (value, value, value): resampling knows no other.
    Raises BadInputError for values that are not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not np.isfinite(sample).all():
        raise BadInputError(f"bootstrap of values of shape {sample.shape}: expected one finite number per example")
    if len(sample) == 0:
        return np.nan, np.nan, np.nan
    mean = float(sample.mean())
    if len(sample) == 1:
        return mean, np.nan, np.nan
    if np.all(sample == sample[0]):
        return float(sample[0]), float(sample[0]), float(sample[0])
    from scipy.stats import bootstrap

    result = bootstrap(
        (sample,),
        np.mean,
        n_resamples=settings.resamples,
        batch=max(1, _CELLS // len(sample)),
        vectorized=True,
        confidence_level=settings.confidence,
        method="percentile",
        rng=np.random.default_rng(settings.seed),
    )
    return mean, float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_interval(a: npt.ArrayLike, b: npt.ArrayLike, settings: EvaluationSettings) -> tuple[float, float, float]:
    """Return the mean of a − b over the same examples, and its bootstrap interval, as `interval` does.

    Raises BadInputError where the two do not hold the same number of examples.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise BadInputError(f"paired bootstrap of {first.shape} and {second.shape} values: expected the same examples")
    return interval(first - second, settings)
