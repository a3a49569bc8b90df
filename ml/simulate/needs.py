"""What a simulated customer is like, when they come and what they look for: everything decided before a result is seen.

All of it is drawn from the customer's own random streams by customer, day and purpose. Nothing here knows what anybody
clicked or bought, so a query cannot be phrased from an item chosen, earlier or later.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np

from ml.simulate import words
from ml.simulate.shop import LOOK_DIM, LOOKS, Shop, look_centres

DRIFT_DAYS = 30
"""Days between two points that a taste moves along."""


class Stream(IntEnum):
    """What a random stream is for; streams never share draws."""

    PERSON = 11
    DRIFT = 12
    MISSION = 13
    NEED = 14
    VISITS = 15
    CHOICE = 16
    RECORD = 17


def stream(seed: int, purpose: Stream, customer: int, *more: int) -> np.random.Generator:
    """Return the generator of one purpose, customer and day: the same wherever and whenever it is asked for."""
    return np.random.Generator(np.random.PCG64([seed, int(purpose), customer, *more]))


@dataclass(frozen=True)
class Customer:
    """A customer's lasting tastes."""

    number: int
    audience: int
    looks: np.ndarray
    colors: np.ndarray
    brands: np.ndarray
    types: np.ndarray
    price: float
    size: int
    visits_per_day: float
    mission_days: int
    mission_start: int
    writes_audience: float


@dataclass(frozen=True)
class Need:
    """What a visit is for: a product type for somebody, perhaps for a season or occasion, perhaps in a colour."""

    type: int
    audience: int
    season: int | None
    occasion: int | None
    family: int | None


@dataclass(frozen=True)
class Visit:
    """A visit's start (second of the day), what is looked for, and the searches; a None query is browsing."""

    number: int
    second: int
    searches: tuple[tuple[int, Need, str | None], ...]


def make_customer(shop: Shop, number: int) -> Customer:
    """Return customer `number` of this shop."""
    rng = stream(shop.seed, Stream.PERSON, number)
    audience = int(rng.choice(3, p=[0.6, 0.34, 0.06]))
    weights = shop.type_weights * rng.lognormal(0, 1.0, len(shop.types))
    mission_days = int(rng.integers(5, 16))
    return Customer(
        number=number,
        audience=audience,
        looks=rng.dirichlet(np.full(LOOKS, 0.25)) @ look_centres(shop.seed),
        colors=rng.normal(0, 1, len(words.FAMILIES)),
        brands=rng.normal(0, 1, len(words.BRANDS)),
        types=weights,
        price=float(rng.beta(2, 2)),
        size=int(rng.choice(4, p=[0.7, 0.1, 0.1, 0.1])),
        visits_per_day=float(np.clip(rng.gamma(2.5, 0.12), 0.04, 1.0)),
        mission_days=mission_days,
        mission_start=int(rng.integers(0, mission_days)),
        writes_audience=float(rng.beta(2, 2)),
    )


@lru_cache(maxsize=8)
def _drift(seed: int, customer: int, point: int) -> np.ndarray:
    return stream(seed, Stream.DRIFT, customer, point).normal(size=LOOK_DIM + len(words.FAMILIES))


@lru_cache(maxsize=8)
def _visits_of_week(seed: int, customer: int, week: int, visits_per_day: float) -> np.ndarray:
    return np.minimum(stream(seed, Stream.VISITS, customer, week).poisson(visits_per_day, 7), 3)


def tastes(shop: Shop, customer: Customer, day: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the customer's look vector (unit length) and colour tastes on `day`, on their way between two points."""
    before, share = divmod(day, DRIFT_DAYS)
    share /= DRIFT_DAYS
    start, goal = (_drift(shop.seed, customer.number, before + n) for n in (0, 1))
    moved = (1 - share) * start + share * goal
    look = customer.looks + 0.25 * moved[: len(customer.looks)]
    colors = customer.colors + 0.5 * moved[len(customer.looks) :][: len(customer.colors)]
    return look / np.linalg.norm(look), colors


def visits(shop: Shop, customer: Customer, day: int) -> list[Visit]:
    """Return the customer's visits on `day`, in time order, with every query already worded."""
    count = _visits_of_week(shop.seed, customer.number, day // 7, customer.visits_per_day)[day % 7]
    if not count:
        return []
    rng = stream(shop.seed, Stream.NEED, customer.number, day)
    colors = tastes(shop, customer, day)[1]
    # Evenings are busiest; a visit starts at least an hour before midnight.
    peaks = rng.choice([9.0, 13.0, 20.0], count, p=[0.25, 0.25, 0.5])
    hours = np.sort(np.clip(peaks + rng.normal(0, 1.5, count), 0, 22))
    apart = np.diff(hours, prepend=-2.0) > 1
    return [
        Visit(number, int(hour * 3600), _searches(shop, customer, day, colors, rng))
        for number, hour in enumerate(hours[apart])
    ]


def _searches(
    shop: Shop, customer: Customer, day: int, colors: np.ndarray, rng: np.random.Generator
) -> tuple[tuple[int, Need, str | None], ...]:
    """Return a visit's searches: seconds after its start, the need, the query (None: a listing page instead)."""
    mission = (day + customer.mission_start) // customer.mission_days
    plan = stream(shop.seed, Stream.MISSION, customer.number, mission)
    # The mission's window may have begun before this day; it is planned for the season of its first day.
    first_day = max(0, mission * customer.mission_days - customer.mission_start)
    need = draw_need(shop, customer, first_day, colors, plan)
    found = []
    second = 5
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
        if rng.random() > 0.6:
            need = draw_need(shop, customer, day, colors, rng)
        query = None if rng.random() < 0.15 else word_query(shop, customer, need, rng)
        found.append((second, need, query))
        second += int(rng.integers(240, 900))
    return tuple(found)


def draw_need(shop: Shop, customer: Customer, day: int, colors: np.ndarray, rng: np.random.Generator) -> Need:
    """Return a need of this customer: favourite types in their season, mostly for themselves."""
    today = shop.season_weights[day]
    audience = customer.audience if rng.random() < 0.8 else int(rng.integers(0, 3))
    seasonal = (shop.type_seasons @ today + 0.05) ** 1.5
    weights = customer.types * seasonal * np.where(shop.type_worn[:, audience], 1.0, 1e-6)
    kind = int(rng.choice(len(shop.types), p=weights / weights.sum()))
    t = shop.types[kind]
    if audience not in t.audiences:
        audience = t.audiences[0]
    wanted = np.array(t.seasons) * today
    return Need(
        type=kind,
        audience=audience,
        season=int(rng.choice(4, p=wanted / wanted.sum())) if rng.random() < 0.6 else None,
        occasion=int(rng.choice(t.occasions)) if rng.random() < 0.4 else None,
        family=int(np.argmax(colors + rng.gumbel(size=len(colors)))) if rng.random() < 0.25 else None,
    )


def word_query(shop: Shop, customer: Customer, need: Need, rng: np.random.Generator) -> str:
    """Return the words this customer types for a need: other names, orders, plurals, sometimes a slip or capitals."""
    t = shop.types[need.type]
    noun = str(rng.choice([t.name, t.name, *t.synonyms])).lower()
    if not noun.endswith("s") and rng.random() < 0.25:
        noun += "s"
    adjectives = []
    if need.season is not None and words.SEASON_WORDS[need.season] and rng.random() < 0.7:
        adjectives.append(str(rng.choice(words.SEASON_WORDS[need.season])))
    if need.occasion is not None and rng.random() < 0.7:
        adjectives.append(str(rng.choice(words.OCCASION_WORDS[need.occasion])))
    if need.family is not None and rng.random() < 0.8:
        adjectives.append(words.FAMILIES[need.family])
    rng.shuffle(adjectives)
    parts = [*adjectives[:2], noun]
    if rng.random() < customer.writes_audience:
        audience = str(rng.choice(words.AUDIENCE_WORDS[need.audience]))
        parts = [*parts, audience] if audience.startswith("for") or rng.random() < 0.5 else [audience, *parts]
    return _with_slips(" ".join(parts), rng)


def _with_slips(query: str, rng: np.random.Generator) -> str:
    """Return the query with, now and then, a letter lost or swapped, or a capital first letter."""
    if rng.random() < 0.05 and len(query) > 5:
        at = int(rng.integers(1, len(query) - 2))
        swapped = query[at + 1] + query[at] if rng.random() < 0.5 else query[at + 1]
        query = query[:at] + swapped + query[at + 2 :]
    return query.capitalize() if rng.random() < 0.1 else query
