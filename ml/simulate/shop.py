"""The simulated shop's items: styles in colour variants, with seasons, prices, launch and retirement days.

A style belongs to a look (a point in taste space); its fit, material, brand and price lean towards that look, so that
a title and its attributes tell something about who will like it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa

from ml.errors import BadInputError
from ml.simulate import words
from ml.simulate.words import CATEGORIES, ProductType

LOOKS = 8
LOOK_DIM = 6
ITEMS_PER_TYPE = 60
HISTORY_DAYS = 180
"""Items launched up to this many days before the log begins are part of the shop."""


@dataclass(frozen=True)
class Shop:
    """Items as parallel arrays; days count from the log's first day, which is 0 (negative: before it)."""

    seed: int
    start: str
    days: int
    categories: tuple[str, ...]
    types: tuple[ProductType, ...]
    type_category: np.ndarray
    item_id: np.ndarray
    style: np.ndarray
    type: np.ndarray
    audience: np.ndarray
    color: np.ndarray
    pattern: np.ndarray
    brand: np.ndarray
    season: np.ndarray
    occasion: np.ndarray
    size: np.ndarray
    fit: np.ndarray
    material: np.ndarray
    look: np.ndarray
    price: np.ndarray
    appeal: np.ndarray
    launch: np.ndarray
    retire: np.ndarray

    def __len__(self) -> int:
        return len(self.item_id)

    def day(self, offset: int) -> date:
        """Return the calendar day of a day number."""
        return date.fromisoformat(self.start) + timedelta(days=int(offset))

    @cached_property
    def season_weights(self) -> np.ndarray:
        """How much each day asks for each of `words.SEASONS` [days, 4], from 0 to 1 (northern hemisphere)."""
        year_day = np.array([self.day(offset).timetuple().tm_yday for offset in range(self.days)])
        warmth = np.cos(2 * np.pi * (year_day - 200) / 365.25)
        every = np.full(self.days, 0.6)
        return np.stack([np.maximum(warmth, 0), np.maximum(-warmth, 0), 1 - np.abs(warmth), every], axis=1)

    @cached_property
    def type_seasons(self) -> np.ndarray:
        """How much each product type belongs to each season [types, 4]; rows sum to 1."""
        seasons = np.array([t.seasons for t in self.types])
        return seasons / seasons.sum(axis=1, keepdims=True)

    @cached_property
    def type_weights(self) -> np.ndarray:
        """How often each product type is needed [types], whoever asks."""
        return _type_shares(self.categories, self.types, self.type_category)

    @cached_property
    def type_worn(self) -> np.ndarray:
        """Which audiences wear which product types, as bool [types, audiences]."""
        return np.array([[a in t.audiences for a in range(len(words.AUDIENCES))] for t in self.types])

    def siblings(self, item: int) -> np.ndarray:
        """Return the item's other colour variants; a style's items lie side by side."""
        first, last = np.searchsorted(self.style, [self.style[item], self.style[item] + 1])
        return np.array([i for i in range(first, last) if i != item], dtype=np.int64)


def look_centres(seed: int) -> np.ndarray:
    """Return the unit vectors [LOOKS, LOOK_DIM] that styles and tastes gather around."""
    centres = np.random.default_rng([seed, 1]).normal(size=(LOOKS, LOOK_DIM))
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)


def make_shop(items: int, days: int, end: str, categories: list[str], seed: int) -> Shop:
    """Return a shop of exactly `items` items whose log ends on day `end` after `days` days.

    Raises BadInputError for a category without word lists, or fewer items than categories.
    """
    unknown = [name for name in categories if name not in CATEGORIES]
    if unknown or not categories:
        raise BadInputError(f"categories {unknown}: a simulated shop can have {list(CATEGORIES)}")
    if items < len(categories) or days < 1:
        raise BadInputError(f"items={items}, days={days}: expected at least one item per category and one day")
    try:
        start = date.fromisoformat(end) - timedelta(days=days - 1)
    except ValueError as error:
        raise BadInputError(f"end {end!r}: expected a day as YYYY-MM-DD") from error
    rng = np.random.default_rng([seed, 2])
    by_category = _assortment(items, categories, rng)
    types = tuple(t for chosen in by_category for t in chosen)
    type_category = np.array([c for c, chosen in enumerate(by_category) for _ in chosen])
    styles = _styles(items, days, categories, types, type_category, seed, rng)
    style = np.repeat(np.arange(len(styles["variants"])), styles["variants"])
    columns = {name: values[style] for name, values in styles.items() if name != "variants"}
    launch = columns.pop("launch")
    life = rng.integers(60, 240, items)
    retire = np.where(rng.random(items) < 0.5, launch + life, days + 365)
    ids = rng.permutation(items) + 10 ** max(5, len(str(items)))
    return Shop(
        seed=seed,
        start=start.isoformat(),
        days=days,
        categories=tuple(categories),
        types=types,
        type_category=type_category,
        item_id=ids.astype(str).astype(object),
        style=style,
        color=_variant_colors(style, columns["look"], seed, rng),
        appeal=columns.pop("appeal") * rng.lognormal(0, 0.4, items),
        launch=launch,
        retire=retire,
        **columns,
    )


def _type_shares(categories: Sequence[str], types: Sequence[ProductType], type_category: np.ndarray) -> np.ndarray:
    """Return each type's share of the shop [types], summing to 1: its category's, split by the types' weights."""
    weights = np.array([t.weight for t in types])
    shares = np.array([CATEGORIES[name][0] for name in categories])
    shares = (shares / np.bincount(type_category, weights))[type_category] * weights
    return shares / shares.sum()


def _assortment(items: int, categories: list[str], rng: np.random.Generator) -> list[list[ProductType]]:
    """Return each category's product types: a small shop has few kinds, with enough of each to choose from."""
    total = sum(CATEGORIES[name][0] for name in categories)
    chosen = []
    for name in categories:
        share, types = CATEGORIES[name]
        count = min(max(int(items * share / total) // ITEMS_PER_TYPE, 3), len(types))
        weight = np.array([t.weight for t in types])
        # The most wanted type is in every shop.
        score = np.where(weight == weight.max(), np.inf, np.log(weight) + rng.gumbel(0, 0.5, len(types)))
        chosen.append([types[i] for i in sorted(np.argsort(-score, kind="stable")[:count])])
    return chosen


def _styles(
    items: int,
    days: int,
    categories: list[str],
    types: tuple[ProductType, ...],
    type_category: np.ndarray,
    seed: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Return what every style has, as arrays; `variants` (colours per style) sums to `items`."""
    variants = rng.choice([1, 2, 3, 4, 5], size=items, p=[0.15, 0.3, 0.3, 0.15, 0.1])
    n = int(np.searchsorted(np.cumsum(variants), items)) + 1
    variants = variants[:n]
    variants[-1] -= variants.sum() - items
    shares = _type_shares(categories, types, type_category)
    kind = rng.choice(len(types), size=n, p=shares)
    kind[: len(categories)] = [int(np.argmax(type_category == c)) for c in range(min(len(categories), n))]
    look_of = rng.integers(0, LOOKS, n)
    look = look_centres(seed)[look_of] + rng.normal(0, 0.25, (n, LOOK_DIM))
    look /= np.linalg.norm(look, axis=1, keepdims=True)
    season = np.empty(n, dtype=np.int64)
    audience, occasion, material = np.empty_like(season), np.empty_like(season), np.empty_like(season)
    for number, t in enumerate(types):
        rows = np.flatnonzero(kind == number)
        season[rows] = rng.choice(4, size=len(rows), p=np.array(t.seasons) / sum(t.seasons))
        weights = np.array([(0.55, 0.33, 0.12)[a] for a in t.audiences])
        audience[rows] = rng.choice(t.audiences, size=len(rows), p=weights / weights.sum())
        occasion[rows] = rng.choice(t.occasions, size=len(rows))
        material[rows] = _leaning(look_of[rows], len(words.MATERIALS[t.material]), 0.5, rng)
    one_size = np.array([t.material in {"metal", "bag"} for t in types])[kind]
    return {
        "variants": variants,
        "type": kind,
        "audience": audience,
        "season": season,
        "occasion": occasion,
        "material": material,
        "fit": _leaning(look_of, len(words.FITS), 0.6, rng),
        "brand": _leaning(look_of, len(words.BRANDS), 0.6, rng),
        "pattern": np.where(rng.random(n) < 0.55, 0, rng.integers(0, len(words.PATTERNS), n)),
        "size": np.where(one_size, 4, rng.choice(4, size=n, p=[0.7, 0.1, 0.1, 0.1])),
        "look": look.astype(np.float32),
        "price": np.clip(rng.normal(0.2 + 0.6 * look_of / (LOOKS - 1), 0.15, n), 0, 1).astype(np.float32),
        "appeal": rng.lognormal(0, 0.6, n),
        "launch": _launch_days(n, days, rng),
    }


def _leaning(look_of: np.ndarray, values: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a value per style: with `share` one of the two that its look prefers, else any."""
    preferred = (look_of * 3 + rng.integers(0, 2, len(look_of)) * 5) % values
    return np.where(rng.random(len(look_of)) < share, preferred, rng.integers(0, values, len(look_of)))


def _launch_days(n: int, days: int, rng: np.random.Generator) -> np.ndarray:
    """Return launch days: weekly drops, before the log begins and until its end."""
    weeks = np.arange(-HISTORY_DAYS // 7, math.ceil((days - 3) / 7))
    launched = rng.choice(weeks, size=n) * 7 + 3
    # A shop that has only just opened still has something to sell.
    launched[: max(1, n // 4)] = -HISTORY_DAYS
    return rng.permutation(launched)


def _variant_colors(style: np.ndarray, look: np.ndarray, seed: int, rng: np.random.Generator) -> np.ndarray:
    """Return a colour per item, different within a style, from the colours its look leans to."""
    leaning = np.random.default_rng([seed, 3]).normal(size=(len(words.COLORS), LOOK_DIM))
    color = np.empty(len(style), dtype=np.int64)
    base = np.log(np.array([5, 4] + [1.5] * (len(words.COLORS) - 2)))
    for first in range(0, len(style), 50_000):
        rows = slice(first, first + 50_000)
        score = base + 0.8 * look[rows] @ leaning.T + rng.gumbel(size=(len(style[rows]), len(words.COLORS)))
        color[rows] = np.argmax(score, axis=1)
    # A style's second item of a colour takes the next free one; variants are fewer than colours.
    seen: set[tuple[int, int]] = set()
    for row, number in enumerate(style):
        while (number, color[row]) in seen:
            color[row] = (color[row] + 1) % len(words.COLORS)
        seen.add((number, color[row]))
    return color


def catalog_table(shop: Shop) -> pa.Table:
    """Return the shop's catalogue as its raw file has it: one row per item, every column a string."""
    names = {
        "category": np.array(shop.categories, dtype=object)[shop.type_category[shop.type]],
        "product_type": np.array([t.name for t in shop.types], dtype=object)[shop.type],
        "color": np.array([name for name, _ in words.COLORS], dtype=object)[shop.color],
        "pattern": np.array(words.PATTERNS, dtype=object)[shop.pattern],
        "brand": np.array(words.BRANDS, dtype=object)[shop.brand],
        "season": np.array(words.SEASONS, dtype=object)[shop.season],
        "style_id": np.array([f"S{number:05d}" for number in shop.style], dtype=object),
        "audience": np.array(words.AUDIENCES, dtype=object)[shop.audience],
        "size": np.array(words.SIZES, dtype=object)[shop.size],
    }
    titles = [
        f"{words.FITS[fit]} {words.MATERIALS[shop.types[kind].material][material]} {shop.types[kind].name.lower()}"
        f" - {color} - {audience}"
        for fit, material, kind, color, audience in zip(
            shop.fit, shop.material, shop.type, names["color"], names["audience"], strict=True
        )
    ]
    columns = {"item_id": shop.item_id, "title": titles, **names}
    return pa.table({name: pa.array(list(values), pa.string()) for name, values in columns.items()}).sort_by("item_id")
