"""The signs that a night's table is small, stale or drifted: today's numbers against those of the days before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from ml.settings import HealthSettings
from ml.warehouse import Warehouse

Numbers = Mapping[tuple[str, str, str], tuple[float, int]]
"""A night's numbers: (category, source, metric) → value and the customers it is told from."""


@dataclass
class Finding:
    """What a sign says of a night: problems in words, and what was compared, by category."""

    problems: list[str] = field(default_factory=list)
    compared: dict[str, float] = field(default_factory=dict)
    without_history: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the sign found nothing."""
        return not self.problems


Sign = Callable[[Numbers, Sequence[Numbers], HealthSettings], Finding]


def users_covered(today: Numbers, history: Sequence[Numbers], settings: HealthSettings) -> Finding:
    """Customers with a list: no fewer than `min_users` of the usual."""
    return _at_least(today, history, settings, "users", settings.min_users)


def items_covered(today: Numbers, history: Sequence[Numbers], settings: HealthSettings) -> Finding:
    """Distinct items recommended: no fewer than `min_items` of the usual."""
    return _at_least(today, history, settings, "items", settings.min_items)


def realised_quality(today: Numbers, history: Sequence[Numbers], settings: HealthSettings) -> Finding:
    """Recall of the table before among today's buyers: no less than `min_realised` of the usual."""
    return _at_least(today, history, settings, "recall", settings.min_realised, settings.min_buyers)


def overlap_with_yesterday(today: Numbers, history: Sequence[Numbers], settings: HealthSettings) -> Finding:
    """The share of a customer's items that stood in the list before: no less than `min_overlap` of the usual."""
    return _at_least(today, history, settings, "overlap", settings.min_overlap)


def carried_share(today: Numbers, history: Sequence[Numbers], settings: HealthSettings) -> Finding:
    """The share of customers whose list is an older night's: no more than `max_carried_rise` above the usual."""
    return _risen(today, history, settings, "carried_share", settings.max_carried_rise)


def popular_share(today: Numbers, history: Sequence[Numbers], settings: HealthSettings) -> Finding:
    """The share of customers who got the popular items: no more than `max_popular_rise` above the usual.

    There is no share that is too large by itself: most customers have no history in a small category.
    """
    return _risen(today, history, settings, "popular_share", settings.max_popular_rise)


def model_age(today: Numbers, history: Sequence[Numbers], settings: HealthSettings) -> Finding:
    """Days since the newest event that the oldest model in use has seen: no more than `max_model_age_days`."""
    return _at_most(today, "model_age_days", settings.max_model_age_days)


def score_distribution(today: Numbers, history: Sequence[Numbers], settings: HealthSettings) -> Finding:
    """How far the median score of first items moved, by source, in widths of the usual distribution (p10 to p90)."""
    found = Finding()
    for (category, source, metric), (value, _) in today.items():
        if metric != "score_p50":
            continue
        usual = _usual(history, settings, category, source, metric)
        low, high = (_usual(history, settings, category, source, name) for name in ("score_p10", "score_p90"))
        name = f"{category} {source}"
        if usual is None or low is None or high is None:
            found.without_history.append(name)
            continue
        shift = abs(value - usual) / max(high - low, 1e-9)
        found.compared[name] = shift
        if shift > settings.max_score_shift:
            found.problems.append(
                f"{name}: the median score {value:.4g} is {shift:.2f} usual widths from {usual:.4g}, "
                f"allowed are {settings.max_score_shift}"
            )
    return found


SIGNS: dict[str, Sign] = {
    sign.__name__: sign
    for sign in (
        users_covered, items_covered, carried_share, popular_share, model_age, score_distribution,
        overlap_with_yesterday, realised_quality,
    )
}  # fmt: skip
"""Every sign by its name, which is also its asset check's."""


def missing_categories(warehouse: Warehouse, day: str, categories: Sequence[str]) -> list[str]:
    """Return the categories without a `recommendations` table of `day`."""
    return [name for name in categories if not warehouse.exists("recommendations", date=day, category=name)]


def _usual(
    history: Sequence[Numbers], settings: HealthSettings, category: str, source: str, metric: str, customers: int = 0
) -> float | None:
    """Return the median over the days before; None with fewer than `min_history` of them."""
    found = [night[category, source, metric] for night in history if (category, source, metric) in night]
    values = [value for value, told_from in found if told_from >= customers]
    return median(values) if len(values) >= settings.min_history else None


def _at_least(
    today: Numbers, history: Sequence[Numbers], settings: HealthSettings, metric: str, share: float, customers: int = 0
) -> Finding:
    found = Finding()
    names = sorted({category for night in (today, *history) for category, _, known in night if known == metric})
    for category in names:
        usual = _usual(history, settings, category, "all", metric, customers)
        value, told_from = today.get((category, "all", metric), (0.0, customers))
        if usual is None or told_from < customers:
            found.without_history.append(category)
            continue
        found.compared[category] = value
        if value < share * usual:
            found.problems.append(f"{category}: {metric} {value:.4g}, usual {usual:.4g}, expected {share:.0%} of that")
    return found


def _at_most(today: Numbers, metric: str, limit: float) -> Finding:
    found = Finding()
    for (category, _, known), (value, _) in today.items():
        if known == metric:
            found.compared[category] = value
            if value > limit:
                found.problems.append(f"{category}: {metric} {value:.4g}, allowed are {limit:g}")
    return found


def _risen(today: Numbers, history: Sequence[Numbers], settings: HealthSettings, metric: str, rise: float) -> Finding:
    found = Finding()
    for (category, source, known), (value, _) in today.items():
        if known != metric:
            continue
        usual = _usual(history, settings, category, source, metric)
        if usual is None:
            found.without_history.append(category)
            continue
        found.compared[category] = value
        if value > usual + rise:
            found.problems.append(f"{category}: {metric} {value:.4g}, usual {usual:.4g}, allowed is {rise:g} more")
    return found
