"""The protocol and its reference systems: ranks by hand, against slow copies, and what may not change them."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError, HemlineError
from ml.evaluation import (
    CoreSystem,
    ItemExamples,
    ItemKNN,
    Markov,
    Popularity,
    item_examples,
    rank_targets,
    recall_at_k,
    references,
    sample_examples,
)
from ml.evaluation.references import item_cosine
from ml.sequences import ItemSequences
from ml.settings import ItemEmbeddingSettings
from ml.tables import TABLES


class Fixed:
    """A system whose scores are given."""

    name = "fixed"

    def __init__(self, items, rows):
        self.items, self.rows, self.asked = items, np.array(rows, dtype=float), 0

    def fit(self, data, validation=None):
        pass

    def scores(self, histories, ages):
        self.asked += len(histories)
        return np.tile(self.rows, (len(histories), 1))


def examples_of(*targets, days=None, histories=None):
    n = len(targets)
    histories = histories or [["a"]] * n
    return ItemExamples(
        example_ids=[f"e{i}" for i in range(n)],
        histories=histories,
        ages=[np.arange(len(h), 0, -1, dtype=float) for h in histories],
        targets=list(targets),
        days=list(days or ["2020-01-01"] * n),
    )


def data_of(*sequences, items=None, gap=1.0):
    items = items or sorted({item for sequence in sequences for item in sequence})
    return ItemSequences(
        items,
        [np.array([items.index(item) for item in sequence], dtype=np.int32) for sequence in sequences],
        [np.arange(len(sequence)) * gap + 100.0 for sequence in sequences],
    )


def test_ties_and_unknown_items_count_against_the_system():
    system = Fixed(["a", "b", "c", "d"], [3, 2, 2, -np.inf])
    ranks = rank_targets(system, examples_of("a", "b", "c", "d", "new", "elsewhere"), ["a", "b", "c", "d", "new"])
    assert ranks[:5].tolist() == [1, 3, 3, 5, 5]
    assert np.isnan(ranks[5]), "an item outside the catalogue is no candidate"


def test_available_candidates_are_those_of_each_targets_day():
    system = Fixed(["a", "b", "c"], [3, 2, 1])
    on_sale = {"2020-01-01": ["b", "c", "gone from the catalogue"], "2020-01-02": ["a", "c"]}
    asked = []

    def available(day):
        asked.append(day)
        return on_sale[day]

    examples = examples_of("c", "b", "c", "a", days=["2020-01-02", "2020-01-01", "2020-01-01", "2020-01-01"])
    ranks = rank_targets(system, examples, ["a", "b", "c"], available)
    assert ranks[:3].tolist() == [2, 1, 2]
    assert np.isnan(ranks[3]), "what cannot be recommended is never ranked"
    assert asked == ["2020-01-01", "2020-01-02"]


def test_nan_scores_are_refused():
    with pytest.raises(HemlineError, match="NaN"):
        rank_targets(Fixed(["a"], [np.nan]), examples_of("a"), ["a"])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.randoms(use_true_random=False), st.data())
@settings(max_examples=60, deadline=None)
def test_rank_is_between_the_best_and_worst_place_and_ignores_every_order(scores, random, data):
    items = [f"i{n:02d}" for n in range(len(scores))]
    target = data.draw(st.integers(0, len(items) - 1))
    order = list(range(len(items)))
    random.shuffle(order)
    shuffled = Fixed([items[i] for i in order], [scores[i] for i in order])
    expected = sum(score >= scores[target] for score in scores)
    catalogue = [items[i] for i in order]
    for system in (Fixed(items, scores), shuffled):
        assert rank_targets(system, examples_of(items[target]), catalogue).tolist() == [expected]
    shifted = Fixed(items, [3.0 * score - 7 for score in scores])
    assert rank_targets(shifted, examples_of(items[target]), catalogue).tolist() == [expected]
    fewer = rank_targets(Fixed(items, scores), examples_of(items[target]), [*items[: target + 1]])
    assert fewer[0] <= expected


def test_memory_is_bounded_by_blocks(monkeypatch):
    monkeypatch.setattr("ml.evaluation.protocol._CELLS", 6)
    sizes = []

    class Watched(Fixed):
        def scores(self, histories, ages):
            sizes.append(len(histories))
            return super().scores(histories, ages)

    ranks = rank_targets(Watched(["a", "b", "c"], [3, 2, 1]), examples_of(*"abcab"), ["a", "b", "c"])
    assert ranks.tolist() == [1, 2, 3, 1, 2]
    assert sizes == [2, 2, 1]


def test_popularity_counts_the_newest_window_first():
    data = ItemSequences(
        ["a", "b", "c", "d"],
        [np.array([0, 0, 0, 1]), np.array([1, 2])],
        [np.array([1.0, 2.0, 3.0, 100.0]), np.array([99.0, 100.0])],
    )
    system = Popularity(window_days=7)
    system.fit(data)
    scores = system.scores([np.array([0])], [np.array([1.0])])[0]
    assert np.argsort(-scores).tolist() == [1, 2, 0, 3]
    assert scores[3] == -np.inf, "never seen"
    with pytest.raises(BadInputError, match="at least one"):
        Popularity().fit(ItemSequences(["a"], [], []))


def test_markov_probabilities_by_hand():
    data = data_of("aba", "abc", "ad", items=["a", "b", "c", "d", "e"])
    system = Markov(window_days=1000)
    system.fit(data)
    p = system.popularity
    row = system.scores([np.array([2, 0])], [np.array([2.0, 1.0])])[0]
    # from a: b twice, d once, so N = 3 and T = 2
    assert row[1] == pytest.approx((2 + 2 * p[1]) / 5)
    assert row[3] == pytest.approx((1 + 2 * p[3]) / 5)
    assert row[0] == pytest.approx(2 * p[0] / 5)
    assert row[4] == -np.inf
    assert row[:4].sum() == pytest.approx(1)
    # no history, and an item that nothing followed: popularity
    for history in (np.array([], dtype=int), np.array([2])):
        assert system.scores([history], [np.ones(len(history))])[0, :4] == pytest.approx(p[:4])


def test_markov_chooses_by_validation_whether_an_item_follows_itself():
    train = data_of("aab", "aab", "aac")
    plain = Markov(self_weight=1.0)
    plain.fit(train)
    assert np.argmax(plain.scores([np.array([0])], [np.ones(1)])[0]) == 0
    p = plain.popularity
    assert plain.scores([np.array([0])], [np.ones(1)])[0, 0] == pytest.approx((3 + 3 * p[0]) / 9)
    for target, weight in (("b", 0.0), ("a", 1.0)):
        chosen = Markov(self_weight=1 - weight)
        chosen.fit(train, data_of(f"a{target}", items=train.items))
        assert chosen.self_weight == weight


def slow_cosine(data, neighbours):
    users = [set(s.tolist()) for s in data.sequences]
    n = len(data.items)
    result = np.zeros((n, n))
    sets = [{u for u, items in enumerate(users) if i in items} for i in range(n)]
    for i in range(n):
        row = {
            j: len(sets[i] & sets[j]) / np.sqrt(len(sets[i]) * len(sets[j]))
            for j in range(n)
            if j != i and sets[i] & sets[j]
        }
        for j in sorted(row, key=lambda j: (-round(row[j], 12), j))[:neighbours]:
            result[i, j] = row[j]
    return result


@given(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=8), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_knn_equals_a_slow_copy(sequences):
    items = [f"i{n}" for n in range(8)]
    data = ItemSequences(
        items, [np.array(s, dtype=np.int32) for s in sequences], [np.arange(len(s)) + 0.0 for s in sequences]
    )
    similarity = slow_cosine(data, neighbours=50)
    assert item_cosine(data, 50).toarray() == pytest.approx(similarity)
    system = ItemKNN(neighbours=50, half_life_days=2.0, rank_decay=0.5)
    system.fit(data)
    history, ages = data.sequences[0], np.arange(len(data.sequences[0]))[::-1] + 3.0
    expected = np.zeros(8)
    for place, item in enumerate(history):
        after = len(history) - 1 - place
        expected += 0.5 ** ((ages[place] - ages[-1]) / 2.0) * 0.5**after * similarity[item]
    scores = system.scores([history], [ages])[0]
    seen = system.seen
    assert scores[seen] == pytest.approx(expected[seen], abs=1e-8)
    assert (scores[~seen] == -np.inf).all()


def test_knn_keeps_the_nearest_neighbours_only():
    data = data_of("ab", "ab", "ac", "ad", "bd")
    assert (item_cosine(data, 2).toarray() > 0).sum(axis=1).tolist() == [2, 2, 1, 2]
    full = slow_cosine(data, 2)
    assert item_cosine(data, 2).toarray() == pytest.approx(full)


def test_knn_chooses_its_decay_by_validation():
    # what is bought next goes with what the history is full of, not with its newest item: a slow decay is right
    train = data_of(*["ax", "by", "cz"] * 5)
    slowly = ItemSequences(train.items, [], [])
    for history in ("aaabx", "bbbcy", "cccaz"):
        slowly.sequences.append(np.array([train.items.index(item) for item in history]))
        slowly.times.append(np.array([0.0, 40.0, 80.0, 120.0, 121.0]))
    fast, slow = ItemKNN(half_life_days=1, rank_decay=0.1), ItemKNN(half_life_days=1, rank_decay=0.1)
    fast.fit(train)
    slow.fit(train, slowly)
    assert fast.half_life_days == 1 and fast.rank_decay == 0.1
    assert slow.half_life_days == 1000 and slow.rank_decay >= 0.8


def small_log():
    """Customers who walk a ring of items, so that the next item follows from the last."""
    rng = np.random.default_rng(0)
    items = [f"i{n:02d}" for n in range(24)]
    starts = rng.integers(0, 24, 120)
    data = ItemSequences(
        items,
        [((start + np.arange(6)) % 24).astype(np.int32) for start in starts],
        [np.arange(6) + 100.0 for _ in starts],
    )
    tests = examples_of(
        *[items[(start + 4) % 24] for start in range(24)],
        histories=[[items[(start + n) % 24] for n in range(4)] for start in range(24)],
    )
    return data, tests


def test_every_reference_learns_a_ring_by_the_same_protocol():
    data, tests = small_log()
    quality = {}
    for system in references(
        ItemEmbeddingSettings(epochs=8, dim=16, layers=1, heads=1, batch_size=32, learning_rate=0.02, encoder="average")
    ):
        system.fit(data, None)
        ranks = rank_targets(system, tests, [*data.items, "not sold yet"])
        quality[system.name] = recall_at_k(ranks, 6).mean()
        first = recall_at_k(ranks, 1).mean()
        # CORE and item-kNN keep to the items around the history; only the chain knows which one is next.
        assert (first == 1) == (system.name == "markov")
    assert list(quality) == ["popularity", "markov", "item_knn", "core"]
    assert quality["popularity"] < 0.5
    assert min(quality["markov"], quality["item_knn"], quality["core"]) > 0.8


def test_core_learns_only_items_of_training_and_can_be_given():
    data, tests = small_log()
    wider = ItemSequences([*data.items, "z1", "z2"], data.sequences, data.times)
    fitted = CoreSystem(ItemEmbeddingSettings(epochs=1, dim=8, layers=1, heads=1))
    fitted.fit(wider, None)
    assert fitted.items == data.items
    given_core = CoreSystem(ItemEmbeddingSettings(), fitted.core)
    catalogue = [*data.items, "z1", "z2"]
    assert rank_targets(given_core, tests, catalogue).tolist() == rank_targets(fitted, tests, catalogue).tolist()
    assert rank_targets(fitted, examples_of("z1"), catalogue).tolist() == [26]
    assert rank_targets(fitted, examples_of("i01", histories=[["z1"]]), catalogue).tolist() == [26]


def test_fitting_does_not_depend_on_the_order_of_customers():
    data, tests = small_log()
    turned = ItemSequences(data.items, data.sequences[::-1], data.times[::-1])
    for make in (Popularity, Markov, ItemKNN):
        first, second = make(), make()
        first.fit(data)
        second.fit(turned)
        assert rank_targets(first, tests, data.items).tolist() == rank_targets(second, tests, data.items).tolist()


def training_rows(n=40):
    start = datetime(2020, 9, 1, tzinfo=UTC)

    def step(i, item, action="click"):
        return {"event_time": start + timedelta(hours=12 * i), "event_id": f"s{i}", "action": action, "item_id": item,
                "query": "boots" if action == "search" else None, "position": None}  # fmt: skip

    steps = [step(0, "a"), step(1, None, "search"), step(2, "b", "purchase")]
    rows = [
        {"example_id": f"e{i:03d}", "user_id": f"u{i}", "target_item": "c", "target_time": start + timedelta(days=2),
         "target_date": date(2020, 9, 3), "query": "boots", "target_query": "boots", "steps": steps,
         "night_clicks": [], "item_steps": 2, "eligible": i % 4 != 0,
         "temporal_split": "test" if i % 2 else "train", "leave_one_out_split": "test"}
        for i in range(n)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=TABLES["training_sequences"].schema)


def test_item_examples_show_items_and_ages_but_no_search():
    examples = item_examples(training_rows(2))
    assert examples.histories == [["a", "b"], ["a", "b"]]
    assert examples.ages[0].tolist() == [2.0, 1.0]
    assert examples.targets == ["c", "c"] and examples.days == ["2020-09-03", "2020-09-03"]


def test_the_sample_is_fixed_nested_and_independent_of_row_order():
    table = training_rows()
    sample = sample_examples(table, "leave_one_out", 10)
    ids = sample["example_id"].to_pylist()
    assert len(ids) == 10 and ids == sorted(ids)
    assert all(sample["eligible"].to_pylist())
    backwards = table.take(list(range(table.num_rows))[::-1])
    assert sample_examples(backwards, "leave_one_out", 10)["example_id"].to_pylist() == ids
    assert set(ids) < set(sample_examples(table, "leave_one_out", 15)["example_id"].to_pylist())
    assert ids != sample_examples(table, "leave_one_out", 10, seed=1)["example_id"].to_pylist()
    temporal = sample_examples(table, "temporal", 1000)
    assert set(temporal["temporal_split"].to_pylist()) == {"test"} and temporal.num_rows == 20
