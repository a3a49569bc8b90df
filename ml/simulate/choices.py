"""What a simulated customer does with what the shop shows: looks, compares, buys or leaves.

Choices are drawn from a stream of their own. They depend on what was shown, on the customer's tastes, on the season and
on what the customer has already seen and bought.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ml.simulate import words
from ml.simulate.needs import Customer, Need, Stream, Visit, stream, tastes
from ml.simulate.search import ShopSearch
from ml.simulate.shop import Shop

_FAMILY = np.array([words.FAMILIES.index(family) for _, family in words.COLORS])
REMEMBERED = 40
"""Items a customer keeps in mind between visits."""


@dataclass
class Memory:
    """The items a customer has in mind: day of the last look and of the last purchase (-1: never bought)."""

    seen: dict[int, int] = field(default_factory=dict)
    bought: dict[int, int] = field(default_factory=dict)

    def look(self, item: int, day: int) -> None:
        """Remember a click; the oldest look is forgotten."""
        self.seen.pop(item, None)
        self.seen[item] = day
        if len(self.seen) > REMEMBERED:
            del self.seen[next(iter(self.seen))]

    def buy(self, item: int, day: int) -> None:
        """Remember a purchase; the oldest one is forgotten."""
        self.bought.pop(item, None)
        self.bought[item] = day
        if len(self.bought) > REMEMBERED:
            del self.bought[next(iter(self.bought))]


@dataclass(frozen=True)
class Action:
    """One event before it becomes a row: `second` of the day; item and position are -1 where there is none."""

    second: int
    action: str
    item: int
    query: str | None
    position: int


def utility(
    shop: Shop, customer: Customer, need: Need, items: np.ndarray, day: int, taste: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return how much the customer likes each item for this need on this day, before chance."""
    look, colors = taste
    family = _FAMILY[shop.color[items]]
    value = 3.0 * shop.look[items] @ look + 0.7 * colors[family] + 0.4 * customer.brands[shop.brand[items]]
    value = value - 2.0 * np.abs(shop.price[items] - customer.price)
    value = value + 1.2 * shop.season_weights[day, shop.season[items]] + 0.5 * np.log(shop.appeal[items])
    value = value - 3.0 * ((shop.size[items] != customer.size) & (shop.size[items] != 4))
    value = value - 4.0 * (shop.type[items] != need.type) - 4.0 * (shop.audience[items] != need.audience)
    if need.occasion is not None:
        value = value + 0.8 * (shop.occasion[items] == need.occasion)
    if need.season is not None:
        value = value + 0.8 * (shop.season[items] == need.season)
    if need.family is not None:
        value = value + 1.5 * (family == need.family)
    return value


def shop_visit(
    shop: Shop, search: ShopSearch, customer: Customer, visit: Visit, day: int, memory: Memory, seed: int
) -> list[Action]:
    """Return the visit's events in time order, and remember its looks and purchases in `memory`."""
    rng = stream(seed, Stream.CHOICE, customer.number, day, visit.number)
    taste = tastes(shop, customer, day)
    actions: list[Action] = []
    for number, (start, need, query) in enumerate(visit.searches):
        after = visit.searches[number + 1][0] if number + 1 < len(visit.searches) else start + 600
        if query is None:
            shown = search.listing(int(shop.type_category[need.type]), need.audience, day)
        else:
            shown = search.results(query, day)
            actions.append(Action(visit.second + start, "search", -1, query, -1))
        clicks, purchase = _choose(shop, customer, need, shown, day, memory, taste, rng)
        where = {int(item): rank for rank, item in enumerate(shown, start=1)} if query is not None else {}
        steps = [("click", item) for item in clicks] + ([("purchase", purchase)] if purchase is not None else [])
        for order, (action, item) in enumerate(steps, start=1):
            second = visit.second + start + (after - start) * order // (len(steps) + 1)
            position = where.get(item, -1)
            actions.append(Action(second, action, item, query if position > 0 else None, position))
            (memory.look if action == "click" else memory.buy)(item, day)
    return actions


def _choose(
    shop: Shop,
    customer: Customer,
    need: Need,
    shown: np.ndarray,
    day: int,
    memory: Memory,
    taste: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[list[int], int | None]:
    """Return the items clicked, in order, and the one bought, if any, among what was shown and what was in mind."""
    viewed = shown[: int(rng.integers(8, 40))]
    if not len(viewed):
        return [], None
    wish = utility(shop, customer, need, viewed, day, taste) - 0.5 * np.log1p(np.arange(len(viewed)))
    wish = wish + np.array([known(shop, memory, int(item), day) for item in viewed])
    noisy = wish + rng.gumbel(0, 0.8, len(viewed))
    best = np.argsort(-noisy, kind="stable")[: 1 + rng.poisson(1.2)]
    clicks = [int(viewed[i]) for i in best if noisy[i] > 0.0]
    if not clicks:
        return [], None
    if rng.random() < 0.35:
        others = shop.siblings(clicks[-1])
        others = others[(shop.launch[others] <= day) & (shop.retire[others] > day)]
        clicks += [int(item) for item in rng.permutation(others)[:2] if item not in clicks]
    considered = np.array(clicks)
    wish = utility(shop, customer, need, considered, day, taste)
    wish = wish + np.array([known(shop, memory, int(item), day) for item in considered])
    wish = wish + rng.gumbel(0, 0.7, len(considered))
    chosen = int(np.argmax(wish))
    buys = rng.random() < 0.6 / (1 + np.exp(2.5 - wish[chosen]))
    if not buys:
        return clicks, None
    bought = int(considered[chosen])
    # Some buy straight from the results, without opening the item's page.
    return [item for item in clicks if item != bought or rng.random() < 0.7], bought


def known(shop: Shop, memory: Memory, item: int, day: int) -> float:
    """Return what having seen or bought the item adds: basics are bought again, other things rarely."""
    if item in memory.bought:
        return 1.5 if shop.types[shop.type[item]].basic and day - memory.bought[item] > 7 else -4.0
    return 0.4 if 0 < day - memory.seen.get(item, day) <= 14 else 0.0
