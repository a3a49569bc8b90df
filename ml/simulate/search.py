"""The simulated shop's own search and listing pages: text match × trailing popularity, over the items of the day."""

from __future__ import annotations

import numpy as np

from ml.simulate import words
from ml.simulate.shop import Shop

PAGE = 48
"""Results a customer can scroll through."""
DECAY = 0.7
"""What a block's popularity still counts one block later."""
PURCHASE_WEIGHT = 3.0


def first_popularity(shop: Shop) -> np.ndarray:
    """Return what the shop would have counted before the log begins: appeal, for items already launched."""
    past = np.random.default_rng([shop.seed, 4]).lognormal(0, 0.5, len(shop))
    counted = np.where(shop.launch < 0, shop.appeal * past, 0.0)
    return counted / max(counted.mean(), 1e-9)


def next_popularity(popularity: np.ndarray, item: np.ndarray, clicks: np.ndarray, purchases: np.ndarray) -> np.ndarray:
    """Return popularity after a block of days: the old one decayed, plus the block's clicks and purchases by item."""
    counted = np.zeros_like(popularity)
    counted[item] = clicks + PURCHASE_WEIGHT * purchases
    return DECAY * popularity + (1 - DECAY) * counted / max(counted.mean(), 1e-9)


class ShopSearch:
    """Ranks items for a query or a listing page during one block of days.

    Popularity is that of the end of the block before, so that nothing shown on a day knows that day's own clicks.
    Every answer depends only on the shop, the query, the day and that popularity, never on the customer.
    """

    def __init__(self, shop: Shop, popularity: np.ndarray, first_day: int) -> None:
        self.shop = shop
        age = np.maximum(first_day - shop.launch, 0)
        # Shops show what has just arrived before it could earn any popularity.
        self.prior = 0.1 + popularity + 1.5 * np.exp(-age / 14)
        self._attributes = _word_values(shop)
        self._matches: dict[str, tuple[np.ndarray, float]] = {}
        self._ranked: dict[tuple[str, ...], np.ndarray] = {}

    def results(self, query: str, day: int) -> np.ndarray:
        """Return the item numbers found for `query` on `day`, best first, at most PAGE; empty if no word is known."""
        key = tuple(sorted(words.search_words(query)))
        if key not in self._ranked:
            self._ranked[key] = self._rank(key)
        return self._on_sale(self._ranked[key], day)

    def listing(self, category: int, audience: int, day: int) -> np.ndarray:
        """Return the item numbers of a category's page for an audience: popular and new ones, best first."""
        key = (f"#{category}", str(audience))
        if key not in self._ranked:
            inside = (self.shop.type_category[self.shop.type] == category) & (self.shop.audience == audience)
            self._ranked[key] = self._best(np.flatnonzero(inside), self.prior)
        return self._on_sale(self._ranked[key], day)

    def _on_sale(self, ranked: np.ndarray, day: int) -> np.ndarray:
        return ranked[(self.shop.launch[ranked] <= day) & (self.shop.retire[ranked] > day)][:PAGE]

    def _rank(self, query_words: tuple[str, ...]) -> np.ndarray:
        score, total = np.zeros(len(self.shop)), 0.0
        for word in query_words:
            items, weight = self._match(word)
            score[items] += weight
            total += weight
        if not score.any():
            return np.empty(0, dtype=np.int64)
        found = np.flatnonzero(score >= 0.5 * score.max())
        return self._best(found, (score[found] / total) ** 3 * np.sqrt(self.prior[found]), given=True)

    def _best(self, items: np.ndarray, score: np.ndarray, given: bool = False) -> np.ndarray:
        """Sort items by score, ties by number; several pages are kept because some items are not on sale yet."""
        values = score if given else score[items]
        kept = 20 * PAGE
        if len(items) > kept:
            top = np.argpartition(-values, kept)[:kept]
            items, values = items[top], values[top]
        return items[np.lexsort((items, -values))]

    def _match(self, word: str) -> tuple[np.ndarray, float]:
        """Return the items that have `word` and its weight, which is higher the rarer the word (idf)."""
        if word not in self._matches:
            has = np.zeros(len(self.shop), dtype=bool)
            for values, by_word in self._attributes:
                if word in by_word:
                    has |= np.isin(values, by_word[word])
            items = np.flatnonzero(has)
            self._matches[word] = (items, float(np.log(1 + len(self.shop) / (1 + len(items)))))
        return self._matches[word]


def _word_values(shop: Shop) -> list[tuple[np.ndarray, dict[str, list[int]]]]:
    """Return for every attribute its values per item and which values contain which word."""
    types = [" ".join((t.name, *t.synonyms)) for t in shop.types]
    # A material's number means another word in another kind of product, so the pair is the value.
    width = max(len(names) for names in words.MATERIALS.values())
    materials = {
        number * width + m: name
        for number, t in enumerate(shop.types)
        for m, name in enumerate(words.MATERIALS[t.material])
    }
    texts: list[tuple[np.ndarray, dict[int, str]]] = [
        (shop.type, dict(enumerate(types))),
        (shop.audience, {n: " ".join((words.AUDIENCES[n], *w)) for n, w in enumerate(words.AUDIENCE_WORDS)}),
        (shop.season, {n: " ".join((words.SEASONS[n], *w)) for n, w in enumerate(words.SEASON_WORDS)}),
        (shop.occasion, {n: " ".join((words.OCCASIONS[n], *w)) for n, w in enumerate(words.OCCASION_WORDS)}),
        (shop.color, {n: " ".join(pair) for n, pair in enumerate(words.COLORS)}),
        (shop.pattern, dict(enumerate(words.PATTERNS))),
        (shop.brand, dict(enumerate(words.BRANDS))),
        (shop.fit, dict(enumerate(words.FITS))),
        (shop.type.astype(np.int64) * width + shop.material, materials),
    ]
    index = []
    for values, by_value in texts:
        by_word: dict[str, list[int]] = {}
        for value, text in by_value.items():
            for word in words.search_words(text):
                by_word.setdefault(word, []).append(value)
        index.append((values, by_word))
    return index
