"""Fusion: what becomes a candidate, what is said of it, how it is ordered, and what may not matter."""

import datetime as dt
import zlib

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.baselines.settings import BaselineSettings
from ml.baselines.system import NeuralSystem
from ml.errors import BadInputError, HemlineError
from ml.evaluation.metrics import ndcg_at_k
from ml.evaluation.references import ItemKNN, Markov
from ml.generation import Generated
from ml.ranking import Asked, Demand, Sources, asked_of_examples
from ml.ranking.features import ANSWER_FEATURES, FEATURES
from ml.ranking.fusion import Ranking, best_items, candidates, ranked_examples, rankings
from ml.ranking.linear import fit_weights, listwise_loss
from ml.ranking.ranker import RankedExample, Ranker, fit_ranker
from ml.ranking.sources import UNLIKELY, best
from ml.ranking.stacking import Questions, fit_stacked
from ml.retrieval.core_model import Core, CoreNetwork
from ml.sequences import ItemSequences
from ml.settings import RankerSettings
from ml.tables import TABLES

ITEMS = [f"item-{i:03}" for i in range(60)]
COLOURS = ("red", "blue", "green")
OPTIONS = RankerSettings(min_examples=5, epochs=40, patience=40, held_out_share=0.2)
ALWAYS = OPTIONS.model_copy(update={"use_answers": "always", "epochs": 10})


class WordVectors:
    """Unit vectors by hashing words: equal words, equal directions."""

    def encode(self, texts):
        result = np.zeros((len(texts), 32), np.float32)
        for row, text in zip(result, texts, strict=True):
            for word in text.split():
                row += np.random.default_rng(zlib.crc32(word.encode())).normal(size=32)
            row /= max(float(np.linalg.norm(row)), 1e-9)
        return result


def _sources(items=ITEMS):
    generator = np.random.default_rng(0)
    known = ITEMS[:50]  # ten items are in no sequence at all
    sequences = [generator.integers(0, 50, 6).astype(np.int32) for _ in range(40)]
    data = ItemSequences(known, sequences, [np.sort(generator.uniform(0, 60, 6)) for _ in sequences])
    knn, markov = ItemKNN(), Markov()
    knn.fit(data)
    markov.fit(data)
    torch.manual_seed(0)
    options = dict(encoder="average", dim=8, layers=1, heads=1, dropout=0.0, max_length=10)
    core = Core(known, CoreNetwork(50, **options), options)
    titles = [f"shirt {i} {COLOURS[int(i[-3:]) % 3]}" for i in items]
    encoder = WordVectors()
    following = NeuralSystem("sasrec", BaselineSettings(epochs=1, dim=8, layers=1, max_length=10))
    following.fit(data)
    return Sources(items, titles, encoder.encode(titles), encoder, core, knn, markov, Demand.of(data), following)


@pytest.fixture(scope="module")
def sources():
    return _sources()


def _asked(seed=1, **options):
    generator = np.random.default_rng(seed)
    items = [ITEMS[i] for i in generator.integers(0, 60, 4)]
    given = {"items": items, "bought": [False, True, False, False], "ages": [9.0, 5.0, 2.0, 0.1], "query": None}
    return Asked(**(given | options))


ANSWER = Generated("item-058", "shirt item-058 green", -1.5, True, (("item-058", -1.5), ("item-059", -2.0)))
FULL = {"query": "shirt blue", "memory": ["item-055", "item-003"], "answer": ANSWER}


def test_every_source_proposes(sources):
    [found] = candidates([_asked(**FULL)], sources, "")
    proposed = {sources.items[row] for row in found.rows}
    assert {*_asked().items, "item-055", "item-003", "item-058", "item-059"} <= proposed
    assert any(item.endswith(("1", "4", "7")) for item in proposed)
    assert list(found.rows) == sorted(set(found.rows))


def test_features_have_names_and_are_finite(sources):
    for one in (_asked(), _asked(**FULL), _asked(items=[], bought=[], ages=[]), _asked(items=["unknown"] * 4)):
        [found] = candidates([one], sources, "")
        assert found.features.shape == (len(found.rows), len(FEATURES))
        assert (found.answer is None) == (one.answer is None)
        assert found.features.dtype == np.float32
        assert np.isfinite(found.features).all()


def test_what_the_model_said_is_described(sources):
    [found] = candidates([_asked(**FULL)], sources, "")
    named = dict(zip([sources.items[row] for row in found.rows], found.answer, strict=True))
    column = {name: place for place, name in enumerate(ANSWER_FEATURES)}
    assert named["item-058"][column["answer"]] == 1
    assert named["item-059"][column["answer"]] == 0
    likelihoods = [named[item][column["answer_likelihood"]] for item in ("item-058", "item-059", "item-055")]
    assert likelihoods == sorted(likelihoods, reverse=True)
    [without] = candidates([_asked(query="shirt blue", memory=FULL["memory"])], sources, "")
    assert without.answer is None
    place_of = {row: place for place, row in enumerate(found.rows)}
    shared = [(place, place_of[row]) for place, row in enumerate(without.rows) if row in place_of]
    said_nothing, said = (np.array(places) for places in zip(*shared, strict=True))
    assert len(shared) == len(without.rows), "an answer takes no candidate away"
    unranked = [place for place, name in enumerate(FEATURES) if not name.endswith("_rank")]
    a, b = without.features[said_nothing], found.features[said]
    np.testing.assert_allclose(a[:, unranked], b[:, unranked], atol=1e-5)


def test_the_sequential_network_proposes_what_it_finds_likely(sources):
    one = _asked(items=ITEMS[10:14])
    [found] = candidates([one], sources, "")
    likely = dict(zip(found.rows, found.features[:, FEATURES.index("next_item")], strict=True))
    scored = sources.scores([one]).next_item
    assert np.exp(scored[0, :50]).sum() == pytest.approx(1, abs=1e-3), "probabilities over the items it knows"
    assert set(scored[0, 50:]) == {UNLIKELY}
    assert all(likely[row] == scored[0, row] for row in found.rows)
    assert set(best(scored[0], 50)) <= set(found.rows)
    assert set(sources.scores([_asked(items=["unknown"] * 4)]).next_item[0]) == {UNLIKELY}


def test_others_in_the_block_change_nothing(sources, monkeypatch):
    asked = [_asked(seed, **(FULL if seed % 3 == 0 else {})) for seed in range(9)]
    together = list(candidates(asked, sources, ""))
    monkeypatch.setattr("ml.ranking.fusion.BLOCK", 1)
    for a, b in zip(together, candidates(asked, _sources(), ""), strict=True):
        assert list(a.rows) == list(b.rows)
        np.testing.assert_allclose(a.features, b.features, atol=1e-4)


def test_a_target_is_no_input(sources):
    """The same row with another target asks the same question."""
    moment = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    step = {"event_time": moment - dt.timedelta(days=1), "event_id": "e", "action": "click", "item_id": ITEMS[0]}
    row = dict.fromkeys(TABLES["training_sequences"].names) | {
        "example_id": "x", "steps": [step | {"query": None, "position": None}], "query": "shirt", "target_time": moment,
    }  # fmt: skip
    schema = TABLES["training_sequences"].schema
    schema = pa.schema([field.with_nullable(True) for field in schema])
    rows = [pa.Table.from_pylist([row | {"target_item": item}], schema) for item in (ITEMS[1], ITEMS[2])]
    first, second = (asked_of_examples(table, {}, {}) for table in rows)
    assert first == second
    assert first[0].ages == [1.0]


def _planted(count, seed=0, decides=lambda feature: feature):
    """Questions whose bought item is the one with the highest third feature, or with what `decides` makes of it."""
    generator = np.random.default_rng(seed)
    tables = [generator.normal(size=(20, len(FEATURES))).astype(np.float32) for _ in range(count)]
    return [RankedExample(table, int(decides(table[:, 2]).argmax())) for table in tables]


def _right(ranker, fresh):
    return np.mean([int(ranker.scores(example.features).argmax()) == example.target for example in fresh])


def test_few_purchases_tell_what_decides():
    """Chance is 0.05; the network alone, without the sum before it, has 0.28 at most."""
    assert _right(fit_ranker(_planted(40), OPTIONS), _planted(200, seed=9)) > 0.5


def test_many_purchases_tell_what_no_sum_can():
    ranker = fit_ranker(_planted(400, decides=np.abs), RankerSettings())
    assert _right(ranker, _planted(50, seed=9, decides=np.abs)) > 0.6
    without = Ranker(ranker.hidden)
    without.load_state_dict(ranker.state_dict() | {"layers.5.weight": torch.zeros(1, ranker.hidden)})
    assert _right(without.eval(), _planted(50, seed=9, decides=np.abs)) < 0.3


_HISTORY = ("times_bought", "times_clicked", "recency_in_steps", "recency_in_days", "newest_was_purchase", "in_history")


def _purchases_of(count, seed, returns):
    """Questions with five items of the history, first in every source's order; `returns`: one of them was bought."""
    generator = np.random.default_rng(seed)
    orders = [place for place, name in enumerate(FEATURES) if name.endswith("_rank")]
    examples = []
    for _ in range(count):
        table = generator.normal(size=(20, len(FEATURES))).astype(np.float32)
        table[:, [FEATURES.index(name) for name in _HISTORY]] = 0
        table[:5, [FEATURES.index(name) for name in _HISTORY]] = 1
        table[:5, orders] -= 2
        first = table[:, orders].sum(axis=1)
        examples.append(RankedExample(table, int(first[:5].argmin()) if returns else 5 + int(first[5:].argmin())))
    return examples


def test_a_day_without_a_return_does_not_put_the_history_last():
    """A sum fitted from nothing has 0.48 at most: it has learnt that what stands first everywhere is never bought."""
    ranker = fit_ranker(_purchases_of(31, 0, returns=False), RankerSettings())
    ranks = [one.rank(ranker.scores(one.features)) for one in _purchases_of(200, 9, returns=True)]
    assert np.mean(np.array(ranks) <= 10) > 0.55


def test_the_sum_stays_near_zero_where_examples_say_little():
    """One question alone would be told apart by a sum without end."""
    features, nothing = torch.eye(3), torch.zeros(3)
    held, freer = (fit_weights(features, nothing, [3], [1], penalty) for penalty in (1.0, 0.01))
    assert held.argmax() == 1
    assert held.abs().max() < 0.5 < freer.abs().max()


@given(st.lists(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=6), min_size=1, max_size=6), st.data())
def test_the_loss_is_the_mean_of_each_questions_own(questions, data):
    targets = [data.draw(st.integers(0, len(own) - 1)) for own in questions]
    scores = torch.tensor([score for own in questions for score in own], requires_grad=True)
    loss = listwise_loss(scores, [len(own) for own in questions], targets)
    loss.backward()
    logs = [torch.log_softmax(torch.tensor(own), 0) for own in questions]
    assert loss.item() == pytest.approx(
        -np.mean([log[t].item() for log, t in zip(logs, targets, strict=True)]), abs=1e-5
    )
    expected = np.concatenate([log.exp().numpy() for log in logs])
    expected[np.cumsum([0, *map(len, questions)])[:-1] + targets] -= 1
    np.testing.assert_allclose(scores.grad, expected / len(questions), atol=1e-6)


def test_the_loss_of_many_questions_is_one_computation_and_not_one_for_each():
    def steps(questions):
        loss = listwise_loss(torch.zeros(3 * questions, requires_grad=True), [3] * questions, [0] * questions)
        found, seen = [loss.grad_fn], set()
        while found:
            node = found.pop()
            if node is not None and node not in seen:
                seen.add(node)
                found += [before for before, _ in node.next_functions]
        return len(seen)

    assert steps(500) == steps(2), "each step of the gradient holds all questions: one for each would be quadratic"


def test_same_seed_same_ranker(tmp_path):
    first, second = (fit_ranker(_planted(30), OPTIONS) for _ in range(2))
    features = _planted(1, seed=5)[0].features
    assert first.scores(features).tolist() == second.scores(features).tolist()
    first.save(tmp_path)
    assert Ranker.load(tmp_path).scores(features).tolist() == first.scores(features).tolist()


def test_a_ranker_of_other_features_is_refused(tmp_path):
    fit_ranker(_planted(30), OPTIONS).save(tmp_path)
    path = tmp_path / "ranker.json"
    path.write_text(path.read_text().replace('"knn"', '"other"'))
    with pytest.raises(BadInputError, match="other features"):
        Ranker.load(tmp_path)


def test_no_purchase_to_learn_from_is_said():
    with pytest.raises(BadInputError, match="no validation purchase is among the candidates"):
        fit_ranker([], OPTIONS)


def _agreed(count, seed=0):
    """Questions whose bought item most sources place first, each erring on its own."""
    generator = np.random.default_rng(seed)
    ranks = [place for place, name in enumerate(FEATURES) if name.endswith("_rank")]
    examples = []
    for table in (generator.normal(size=(20, len(FEATURES))).astype(np.float32) for _ in range(count)):
        target = int(generator.integers(20))
        table[target, ranks] -= 1.5
        examples.append(RankedExample(table, target))
    return examples


def test_one_purchase_is_enough_to_follow_what_the_sources_agree_on():
    """Chance is 0.05, and one purchase alone, read without a place to begin from, hardly tells more."""
    ranker = fit_ranker(_agreed(1), OPTIONS)
    assert _right(ranker, _agreed(200, seed=9)) > 0.8


def test_a_feature_that_is_not_finite_is_named():
    examples = _planted(30)
    examples[3].features[:] = np.nan
    with pytest.raises(HemlineError, match=f"feature '{FEATURES[0]}' is not finite"):
        fit_ranker(examples, OPTIONS)


def test_fusion_beats_chance_end_to_end(sources):
    """Customers buy the memory's first product: no other source knows, the ranker finds out which to trust."""
    asked = [_asked(seed, memory=[ITEMS[seed % 60], ITEMS[(7 * seed) % 60]]) for seed in range(120)]
    targets = [one.memory[0] for one in asked]
    known = [example for example in ranked_examples(asked[:90], targets[:90], sources) if example is not None]
    ranker = fit_ranker(known, OPTIONS)
    lists = list(best_items(asked[90:], sources, ranker, 3, [set()] * 30))
    assert np.mean([target == items[0][0] for target, items in zip(targets[90:], lists, strict=True)]) > 0.8
    without = list(best_items(asked[90:], sources, ranker, 3, [{target} for target in targets[90:]]))
    assert all(target not in dict(items) for target, items in zip(targets[90:], without, strict=True))
    assert all(len(items) == 3 for items in without)
    ranks = [
        ranking.rank(sources.row_of[target])
        for ranking, target in zip(rankings(asked[90:], sources, ranker), targets[90:], strict=True)
    ]
    listed = [target in dict(items) for target, items in zip(targets[90:], lists, strict=True)]
    assert [rank <= 3 for rank in ranks] == listed


def _answered(count, told, seed=0):
    """Questions whose bought item the answer's first feature names where it is `told`, and the candidates' else."""
    generator = np.random.default_rng(seed)
    questions = Questions()
    for place in range(count):
        features = generator.normal(size=(20, len(FEATURES))).astype(np.float32)
        answer = generator.normal(size=(20, len(ANSWER_FEATURES))).astype(np.float32)
        target = int(generator.integers(20))
        (answer if told else features)[target, 0] += 4
        questions.plain.append(RankedExample(features, target))
        questions.answered[place] = RankedExample(features, target, answer)
    return questions


def test_answers_that_tell_are_used_and_others_do_no_harm():
    telling, silent = (fit_stacked(_answered(60, told), ALWAYS) for told in (True, False))
    assert telling.ranker.uses_answers
    first = [np.mean(np.array(ranks) == 1) for ranks in (telling.ranks_with, telling.ranks_without)]
    assert first[0] > 0.6 > first[1] + 0.3, "chance: 0.05"
    weights = [abs(one.ranker.answers.get_buffer("weights").numpy()) for one in (telling, silent)]
    assert weights[0].argmax() == 0
    assert weights[1].max() < weights[0][0] / 5
    fresh = _answered(100, False, seed=9)
    features = [example.features for example in fresh.plain]
    said = [fresh.answered[place].answer for place in range(100)]
    ranks = [
        np.mean([(scores >= scores[example.target]).sum() for scores, example in zip(found, fresh.plain, strict=True)])
        for found in (silent.ranker.scores_of(features), silent.ranker.scores_of(features, said))
    ]
    assert abs(ranks[0] - ranks[1]) < 1.5


def test_answers_are_used_where_they_raise_validation():
    used = []
    for questions in (_answered(30, True), *(_answered(30, False, seed) for seed in range(3))):
        found = fit_stacked(questions, OPTIONS.model_copy(update={"epochs": 5}))
        gain = np.mean(ndcg_at_k(found.ranks_with, 10)) - np.mean(ndcg_at_k(found.ranks_without, 10))
        used.append(found.ranker.uses_answers)
        assert used[-1] == (gain > 0)
    assert used[0] and not all(used)


def test_customers_without_an_answer_are_ranked_as_if_nobody_had_one(tmp_path):
    questions = _answered(60, True)
    stacked = fit_stacked(questions, OPTIONS.model_copy(update={"epochs": 5})).ranker
    alone = fit_stacked(Questions(questions.plain), OPTIONS.model_copy(update={"epochs": 5}))
    assert not alone.ranker.uses_answers
    assert alone.ranks_with == alone.ranks_without == []
    features = questions.plain[0].features
    assert stacked.scores(features).tolist() == alone.ranker.scores(features).tolist()
    stacked.save(tmp_path)
    answer = questions.answered[0].answer
    [kept] = Ranker.load(tmp_path).scores_of([features], [answer])
    assert kept.tolist() == stacked.scores_of([features], [answer])[0].tolist() != stacked.scores(features).tolist()


def test_a_bought_item_that_nobody_proposed_is_no_candidate():
    questions = _answered(30, True)
    questions.plain[3] = questions.answered[4] = None
    stacked = fit_stacked(questions, OPTIONS.model_copy(update={"epochs": 5}))
    assert np.isnan(stacked.ranks_without[3]) and not np.isnan(stacked.ranks_with[3]), "the answer proposed it"
    assert np.isnan(stacked.ranks_with[4])


def test_the_questions_of_two_categories_keep_their_answers():
    first, second = _answered(4, True), _answered(3, True, seed=1)
    expected = [*first.answered.values(), *second.answered.values()]
    first.extend(second)
    assert [first.answered[place] for place in range(7)] == expected


scores_of = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@given(core=scores_of, data=st.data())
def test_rank_counts_what_stands_before(core, data):
    size = len(core)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1)))), np.int64)
    scores = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=len(rows), max_size=len(rows))), np.float32)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    target = data.draw(st.integers(0, size - 1))
    ranking = Ranking(rows, scores, np.array(core, np.float32))
    for mask in (None, allowed):
        usable = np.ones(size, bool) if mask is None else mask
        keys = {row: (1, float(scores[i])) for i, row in enumerate(rows.tolist())}
        key = {row: keys.get(row, (0, float(core[row]))) for row in range(size) if usable[row]}
        rank = ranking.rank(target, mask)
        if not usable[target]:
            assert np.isnan(rank)
        else:
            assert rank == sum(other >= key[target] for other in key.values())


@given(scores=scores_of, count=st.integers(0, 15), above=st.integers(-4, 3))
def test_best_is_a_sort(scores, count, above):
    values = np.array(scores, np.float32)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    assert best(values, count, above).tolist() == [i for i in order if scores[i] > above]
