"""The neural baselines as systems: that they learn, what may not change their scores, and what they refuse."""

import numpy as np
import pytest
import torch

from ml.baselines import NAMES, baseline
from ml.baselines.network import last_states
from ml.baselines.settings import BaselineSettings
from ml.baselines.system import NeuralSystem
from ml.errors import BadInputError, HemlineError
from ml.evaluation import ItemExamples, ndcg_at_k, rank_targets
from ml.retrieval import NothingToTrain
from ml.sequences import ItemSequences

SMALL = {"dim": 16, "layers": 1, "batch_size": 32, "max_length": 8, "learning_rate": 0.01, "epochs": 8, "dropout": 0.1}
ITEMS = 30


pytestmark = pytest.mark.usefixtures("one_thread")


def settings(**changes):
    return BaselineSettings.model_validate({**SMALL, **changes})


def item_data(sequences, n_items=ITEMS):
    arrays = [np.array(s, dtype=np.int32) for s in sequences]
    return ItemSequences([f"i{n:03}" for n in range(n_items)], arrays, [np.arange(len(s), dtype=float) for s in arrays])


def successors(users, seed, longest=8):
    """Walks from item to item in which each item has one successor, the same for everybody."""
    following = np.random.default_rng(99).permutation(ITEMS)
    generator = np.random.default_rng(seed)
    walks = []
    for _ in range(users):
        walk = [generator.integers(ITEMS)]
        for _ in range(generator.integers(1, longest)):
            walk.append(following[walk[-1]])
        walks.append(np.array(walk, dtype=np.int32))
    return walks


def fitted(name, *, validation=None, users=60, report=None, **changes):
    system = NeuralSystem(name, settings(**changes), report)
    system.fit(item_data(successors(users, 0)), validation)
    return system


def scores_of(system, histories):
    return system.scores(histories, [np.zeros(len(h)) for h in histories])


@pytest.mark.parametrize("sampled", [0, 40], ids=["full", "sampled"])
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_which_item_follows_which(name, sampled):
    # A cloze task teaches both directions at once, and so takes longer for the one that is asked.
    changes = {"epochs": 70, "dim": 32, "learning_rate": 3e-3} if name == "bert4rec" else {"epochs": 10}
    system = fitted(name, users=300, sampled_negatives=sampled, **changes)
    walks = successors(100, 1)
    found = scores_of(system, [w[:-1] for w in walks])
    assert np.mean(found.argmax(axis=1) == [w[-1] for w in walks]) > 0.8, "chance is 1 in 30"


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_scores_and_the_callers_random_state_is_left_alone(name):
    histories = [np.array([3, 4, 5]), np.array([7])]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = scores_of(fitted(name, epochs=2), histories)
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(first, scores_of(fitted(name, epochs=2), histories))
    assert not np.array_equal(first, scores_of(fitted(name, epochs=2, seed=1), histories))


@pytest.mark.parametrize("name", NAMES)
def test_a_score_does_not_depend_on_what_it_is_computed_with(name):
    system = fitted(name, epochs=2)
    history = np.array([3, 4, 5])
    alone = scores_of(system, [history])[0]
    others = [np.array([9]), np.array([], dtype=np.int64), np.arange(8), history, np.array([1, 2])]
    np.testing.assert_allclose(scores_of(system, others)[3], alone, atol=1e-5)
    assert system.network is not None
    parts = last_states(system.network, [np.arange(8), history], 8, batch_size=1)
    whole = last_states(system.network, [np.arange(8), history], 8)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_newest_items_count_and_nothing_is_known_of_no_items(name):
    system = fitted(name, epochs=1)
    long = np.arange(20)
    found = scores_of(system, [long, long[-8:], np.array([], dtype=np.int64)])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert np.isfinite(found[:2]).all() and (found[2] == -np.inf).all()
    assert found.shape == (3, ITEMS) and found.dtype == np.float32
    assert scores_of(system, [np.array([], dtype=np.int64)]).shape == (1, ITEMS)


@pytest.mark.parametrize("name", NAMES)
def test_items_not_seen_in_training_are_not_among_its_items(name):
    seen = successors(40, 0)
    wider = ItemSequences(["a new item", *item_data(seen).items], [s + 1 for s in seen], item_data(seen).times)
    system, plain = NeuralSystem(name, settings(epochs=1)), NeuralSystem(name, settings(epochs=1))
    system.fit(wider)
    plain.fit(item_data(seen))
    assert system.items == plain.items == item_data(seen).items
    history = [np.array([2, 3])]
    np.testing.assert_array_equal(scores_of(system, history), scores_of(plain, history))
    catalogue = [*system.items, "a new item"]
    examples = ItemExamples(
        ["x", "y"], [["i001"], ["a new item"]], [np.ones(1), np.ones(1)], ["a new item", "i001"], ["2020-01-01"] * 2
    )
    assert rank_targets(system, examples, catalogue).tolist() == [31, 31]


@pytest.mark.parametrize("name", NAMES)
def test_sequences_of_one_item_teach_nothing(name):
    with pytest.raises(NothingToTrain, match=f"{name}: no sequence has two items"):
        NeuralSystem(name, settings()).fit(item_data([[1], [2]]))
    # Alone they cannot be learnt from; beside others they only widen the vocabulary.
    system = NeuralSystem(name, settings(epochs=2))
    system.fit(item_data([*successors(30, 0), [29]]))
    assert "i029" in system.items
    assert np.isfinite(scores_of(system, [np.array([len(system.items) - 1])])).all()


@pytest.mark.parametrize("name", ["gru4rec", "bert4rec"])
def test_training_stops_when_validation_gets_worse_and_keeps_the_best_epoch(name):
    validation = item_data(successors(60, 5))
    epochs = []
    system = fitted(
        name, validation=validation, epochs=80, patience=2, learning_rate=0.03, report=lambda n, m: epochs.append(m)
    )
    ndcgs = [m["validation_ndcg_at_10"] for m in epochs]
    assert len(ndcgs) < 80 and int(np.argmax(ndcgs)) == len(ndcgs) - 3
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    found = scores_of(system, [s[:-1] for s in validation.sequences])
    own = found[np.arange(60), [s[-1] for s in validation.sequences]]
    assert ndcg_at_k((found >= own[:, None]).sum(axis=1), 10).mean() == pytest.approx(max(ndcgs), abs=1e-6)


def test_validation_may_number_its_items_differently_and_know_others():
    same = item_data(successors(50, 7))
    items = ["a new item", *reversed(same.items)]
    renumbered = ItemSequences(items, [ITEMS - s for s in same.sequences], same.times)
    unusable = ItemSequences(items, [np.array([0, 0]), np.array([7]), np.array([7, 0])], same.times[:3])
    runs = [[], [], []]
    for validation, run in zip((same, renumbered, unusable), runs, strict=True):
        fitted("sasrec", epochs=1, validation=validation, report=lambda n, m, run=run: run.append(m))
    assert runs[0] == runs[1]
    assert "validation_ndcg_at_10" not in runs[2][0]


def test_what_cannot_work_says_why():
    with pytest.raises(BadInputError, match="'caser': expected one of gru4rec, sasrec"):
        baseline("caser", settings())
    with pytest.raises(BadInputError, match="fit it"):
        baseline("sasrec", settings()).scores([np.array([0])], [np.zeros(1)])
    with pytest.raises(BadInputError, match="not a multiple of heads"):
        fitted("sasrec", heads=3)
    with pytest.raises(HemlineError, match="lower the learning rate"):
        fitted("gru4rec", learning_rate=1e38, epochs=3)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_system_gives_the_same_scores(name, tmp_path):
    system = fitted(name, epochs=1)
    system.save(tmp_path)
    loaded = NeuralSystem.load(tmp_path)
    histories = successors(5, 3)
    assert loaded.items == system.items
    np.testing.assert_array_equal(scores_of(loaded, histories), scores_of(system, histories))
    (tmp_path / "next_item.safetensors").write_bytes(b"something else")
    with pytest.raises(BadInputError, match=r"next_item\.safetensors"):
        NeuralSystem.load(tmp_path)
