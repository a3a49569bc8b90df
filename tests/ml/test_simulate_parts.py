"""The simulated shop's parts without Spark: items, search, needs, choices."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError
from ml.simulate import words
from ml.simulate.choices import Memory, known, shop_visit, utility
from ml.simulate.needs import make_customer, tastes, visits
from ml.simulate.search import PAGE, ShopSearch, first_popularity, next_popularity
from ml.simulate.shop import catalog_table, make_shop

CATEGORIES = ["Clothing", "Footwear"]


@pytest.fixture(scope="module")
def shop():
    return make_shop(600, 60, "2026-07-14", CATEGORIES, seed=5)


@given(
    st.integers(4, 400),
    st.integers(1, 90),
    st.lists(st.sampled_from(list(words.CATEGORIES)), min_size=1, unique=True),
    st.integers(0, 10),
)
@settings(max_examples=25, deadline=None)
def test_a_shop_of_any_size(items, days, categories, seed):
    shop = make_shop(items, days, "2026-02-01", categories, seed)
    catalog = catalog_table(shop).to_pylist()
    assert len(catalog) == items == len({row["item_id"] for row in catalog})
    assert {row["category"] for row in catalog} <= set(categories)
    variants = [(row["style_id"], row["color"]) for row in catalog]
    assert len(set(variants)) == items, "a style has a colour once"
    styles = {(row["style_id"], row["product_type"], row["audience"], row["brand"], row["season"]) for row in catalog}
    assert len(styles) == len({row["style_id"] for row in catalog}), "colour variants share the rest"
    assert (shop.launch < shop.days).all() and (shop.retire > shop.launch).all()
    assert catalog == catalog_table(make_shop(items, days, "2026-02-01", categories, seed)).to_pylist()


def test_catalogue_titles_and_columns(shop):
    table = catalog_table(shop)
    assert table.column_names == [
        "item_id", "title", "category", "product_type", "color", "pattern", "brand", "season", "style_id", "audience",
        "size",
    ]  # fmt: skip
    row = table.to_pylist()[0]
    assert row["title"].endswith(f"{row['product_type'].lower()} - {row['color']} - {row['audience']}")
    assert len(set(table["season"].to_pylist())) == 4
    assert np.mean(shop.launch > 0) > 0.1, "some items arrive while the log runs"
    assert len(set(shop.launch[shop.launch > 0] % 7)) == 1, "weekly"
    assert np.mean(shop.retire < shop.days) > 0.1, "some are retired"


@pytest.mark.parametrize(
    "wrong", [{"categories": ["Toys"]}, {"categories": []}, {"items": 1}, {"days": 0}, {"end": "14 July"}]
)
def test_a_shop_that_cannot_be_is_refused(wrong):
    arguments = {"items": 50, "days": 3, "end": "2026-07-14", "categories": CATEGORIES, "seed": 0, **wrong}
    with pytest.raises(BadInputError, match=next(iter(wrong))):
        make_shop(**arguments)


def test_search_finds_what_is_asked_and_on_sale(shop):
    search = ShopSearch(shop, first_popularity(shop), 30)
    sneakers = next(n for n, t in enumerate(shop.types) if t.name == "Sneakers")
    for day in (30, 36):
        found = search.results("trainers for women", day)
        assert 5 < len(found) <= PAGE
        assert set(shop.type[found]) == {sneakers} and (shop.audience[found][:5] == 0).all()
        assert (shop.launch[found] <= day).all() and (shop.retire[found] > day).all()
    assert len(search.results("zzz qqq", 30)) == 0
    assert search.results("WOMEN  trainer", 30).tolist() == search.results("trainers for women", 30).tolist()


def test_search_prefers_what_sold_before(shop):
    popularity = first_popularity(shop)
    found = ShopSearch(shop, popularity, 30).results("sneakers for women", 30)
    last = found[5]
    bought = next_popularity(popularity, np.array([last]), np.array([0]), np.array([500]))
    again = ShopSearch(shop, bought, 37).results("sneakers for women", 30)
    assert again[0] == last


def test_needs_depend_on_customer_and_day_alone(shop):
    def words_of(number, days):
        customer = make_customer(shop, number)
        return [(day, visit) for day in days for visit in visits(shop, customer, day)]

    forwards = words_of(3, range(60))
    words_of(4, range(5))
    backwards = words_of(3, reversed(range(60)))
    assert forwards == sorted(backwards, key=lambda pair: (pair[0], pair[1].number))
    assert len(forwards) > 5


def test_queries_follow_the_season_and_vary(shop):
    by_month = {}
    for end in ("2026-07-14", "2026-01-14"):
        seasonal = make_shop(600, 30, end, CATEGORIES, seed=5)
        queries = [
            query
            for number in range(120)
            for day in range(30)
            for visit in visits(seasonal, make_customer(seasonal, number), day)
            for _, _, query in visit.searches
            if query
        ]
        assert len(set(queries)) > 0.3 * len(queries)
        by_month[end] = Counter(word for query in queries for word in query.lower().split())
    assert by_month["2026-07-14"]["summer"] > 10 * by_month["2026-01-14"]["summer"]
    assert by_month["2026-01-14"]["winter"] > 10 * by_month["2026-07-14"]["winter"]


def test_tastes_drift_slowly(shop):
    near, far = [], []
    for number in range(50):
        customer = make_customer(shop, number)
        look = [tastes(shop, customer, day)[0] for day in (0, 1, 59)]
        near.append(look[0] @ look[1])
        far.append(look[0] @ look[2])
    assert np.mean(near) > 0.99 > np.mean(far) > 0.3


def test_what_is_bought_was_shown_and_is_liked(shop):
    search = ShopSearch(shop, first_popularity(shop), 0)
    clicked, shown_utility, bought_utility, sessions, purchases = 0, [], [], 0, 0
    for number in range(150):
        customer, memory = make_customer(shop, number), Memory()
        for day in range(7):
            for visit in visits(shop, customer, day):
                actions = shop_visit(shop, search, customer, visit, day, memory, seed=0)
                assert [a.second for a in actions] == sorted(a.second for a in actions)
                sessions += 1
                for action in actions:
                    if action.position > 0:
                        results = search.results(action.query, day)
                        assert results[action.position - 1] == action.item
                    clicked += action.action == "click"
                purchases += any(a.action == "purchase" for a in actions)
                need, query = visit.searches[0][1:]
                first = [a for a in actions if a.action == "purchase" and a.query == query and query]
                if first:
                    taste = tastes(shop, customer, day)
                    results = search.results(query, day)[:20]
                    shown_utility.append(utility(shop, customer, need, results, day, taste).mean())
                    bought_utility.append(utility(shop, customer, need, np.array([first[0].item]), day, taste)[0])
    assert clicked > sessions, "people compare"
    assert 0.1 < purchases / sessions < 0.6, "some visits end with a purchase, most do not"
    assert np.mean(bought_utility) > np.mean(shown_utility) + 1


def test_only_basics_are_bought_again_soon(shop):
    basic = next(i for i in range(len(shop)) if shop.types[shop.type[i]].basic)
    other = next(i for i in range(len(shop)) if not shop.types[shop.type[i]].basic)
    for item, liked in ((basic, True), (other, False)):
        memory = Memory()
        assert known(shop, memory, item, 20) == 0
        memory.buy(item, 0)
        assert (known(shop, memory, item, 20) > 0) == liked


def test_memory_is_bounded():
    memory = Memory()
    for item in range(200):
        memory.look(item, 1)
        memory.buy(item, 1)
    assert max(memory.seen) == max(memory.bought) == 199
    assert len(memory.seen) == len(memory.bought) == 40


def test_a_need_outside_the_assortment_cannot_be(shop):
    for number in range(40):
        for day in range(0, 60, 7):
            for visit in visits(shop, make_customer(shop, number), day):
                for _, need, _ in visit.searches:
                    assert need.audience in shop.types[need.type].audiences
