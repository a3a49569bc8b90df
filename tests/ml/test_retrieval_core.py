"""CORE: what its vectors mean, that it learns, that it is reproducible, and that sampled softmax estimates the full."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from ml.errors import BadInputError, HemlineError
from ml.retrieval import Core, NothingToTrain, train_core
from ml.retrieval.core_loss import full_softmax_loss, sampled_softmax_loss
from ml.retrieval.core_model import CoreNetwork
from ml.retrieval.core_training import CoreTrainer, batches, windows
from ml.sequences import ItemSequences
from ml.settings import ItemEmbeddingSettings

SMALL = {"dim": 16, "layers": 1, "heads": 2, "batch_size": 16, "max_length": 8, "learning_rate": 0.01, "epochs": 8}


pytestmark = pytest.mark.usefixtures("one_thread")


class Recorder:
    """The part of a tracked run that training uses."""

    def __init__(self):
        self.steps = []

    def metrics(self, values, step=None):
        self.steps.append((step, dict(values)))


def settings(**changes):
    return ItemEmbeddingSettings.model_validate({**SMALL, **changes})


def item_data(sequences, n_items):
    arrays = [np.array(s, dtype=np.int32) for s in sequences]
    return ItemSequences([f"i{n:03}" for n in range(n_items)], arrays, [np.arange(len(s), dtype=float) for s in arrays])


def shop(users, seed):
    """Customers of 10 styles with 6 items each: after some items of a style, its others are bought."""
    generator = np.random.default_rng(seed)
    return [
        generator.choice(6, size=generator.integers(3, 6), replace=False) + 6 * generator.integers(10)
        for _ in range(users)
    ]


def network(encoder="transformer", n_items=20, **changes):
    torch.manual_seed(0)
    sizes = {"dim": 16, "layers": 2, "heads": 2, "dropout": 0.3, "max_length": 8, **changes}
    result = CoreNetwork(n_items, encoder=encoder, **sizes).eval()
    if encoder == "transformer":
        torch.nn.init.normal_(result.score.weight)
    return result


@pytest.mark.parametrize("encoder", ["transformer", "average"])
def test_one_forward_gives_every_prefix_the_vector_it_gets_alone(encoder):
    model = network(encoder)
    items = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        together = model(items)[0]
        alone = torch.stack([model(items[:, : i + 1])[0, -1] for i in range(items.shape[1])])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_a_session_is_a_weighted_sum_of_its_own_items_embeddings():
    model = network()
    items = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        session = model(items)[0, -1]
        basis = model.table(items[0])
        weights = torch.linalg.lstsq(basis.T, session[:, None]).solution.squeeze(1)
        torch.testing.assert_close(weights @ basis, session, atol=1e-5, rtol=1e-5)
    assert (weights > 0).all()
    assert weights.std() > 0


def test_the_average_encoder_is_the_normalised_mean():
    model = network("average")
    items = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        expected = functional.normalize(model.table(items[0]).mean(0), dim=0)
        torch.testing.assert_close(model(items)[0, -1], expected)


def test_an_untrained_transformer_is_the_average():
    torch.manual_seed(0)
    fresh = CoreNetwork(20, encoder="transformer", dim=16, layers=1, heads=2, dropout=0.0, max_length=8).eval()
    items = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        expected = functional.normalize(fresh.table(items[0]).mean(0), dim=0)
        torch.testing.assert_close(fresh(items)[0, -1], expected)


@given(st.integers(0, 60), st.integers(1, 12))
def test_windows_make_every_item_but_the_first_a_target_once(length, max_length):
    sequence = np.arange(length)
    targets = []
    for window in windows(sequence, max_length):
        assert 2 <= len(window.items) <= max_length + 1
        assert list(window.items) == list(range(window.items[0], window.items[0] + len(window.items)))
        predicted = window.items[window.known + 1 :]
        assert len(predicted)
        if window.items[0] > 0:
            assert window.known + 1 >= max_length // 2, "a later window predicts from half of what fits at least"
        targets += list(predicted)
    assert targets == list(range(1, length))


def test_batches_hold_every_window_once_in_similar_lengths():
    parts = [w for n in range(2, 200) for w in windows(np.full(2 + n % 7, n), 8)]
    found = list(batches(parts, 16, np.random.default_rng(0)))
    assert sorted(w.items[0] for b in found for w in b) == list(range(2, 200))
    padding = sum(max(len(w.items) for w in b) * len(b) - sum(len(w.items) for w in b) for b in found)
    assert padding < 0.2 * sum(len(w.items) for w in parts)


def test_the_chunked_loss_and_its_gradients_are_torchs_cross_entropy():
    torch.manual_seed(0)
    sessions = functional.normalize(torch.randn(70, 8), dim=-1).requires_grad_()
    table = torch.randn(70_000, 8).requires_grad_()  # three chunks of 32 targets
    targets = torch.randint(70_000, (70,))
    ours = torch.autograd.grad(full_softmax_loss(sessions, table, targets, 0.1, 0.0), (sessions, table))
    logits = sessions @ functional.normalize(table, dim=-1).T / 0.1
    loss = functional.cross_entropy(logits, targets)
    torch.testing.assert_close(full_softmax_loss(sessions, table, targets, 0.1, 0.0), loss)
    for a, b in zip(ours, torch.autograd.grad(loss, (sessions, table)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-3)


def test_sampled_softmax_estimates_the_full_one_whatever_it_is_drawn_from():
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    table = torch.randn(300, 8)
    sessions = functional.normalize(torch.randn(40, 8), dim=-1)
    targets = torch.from_numpy(generator.integers(300, size=40))
    full = full_softmax_loss(sessions, table, targets, 0.3, 0.0)
    popularity = generator.dirichlet(np.full(300, 0.5)) * 0.5 + 0.5 / 300
    drawn = generator.choice(300, 60_000, p=popularity)
    expected = torch.from_numpy(np.log(60_000 * popularity[drawn])).float()
    negatives = torch.from_numpy(drawn)
    sampled = sampled_softmax_loss(
        sessions, targets, table[targets], negatives, table[negatives], expected, 0.3, 0.0
    )  # fmt: skip
    assert abs(sampled.item() - full.item()) < 0.01
    uncorrected = sampled_softmax_loss(
        sessions, targets, table[targets], negatives, table[negatives], torch.zeros(60_000), 0.3, 0.0
    )  # fmt: skip
    assert abs(uncorrected.item() - full.item()) > 1


def test_a_sampled_step_changes_only_the_rows_it_used():
    data = shop(16, 0)
    parts = [w for s in data for w in windows(s, 8)]
    targets = np.concatenate([s[1:] for s in data]).astype(np.int64)
    trainer = CoreTrainer(5_000, targets, settings(sampled_negatives=32), torch.device("cpu"))
    trainer.network.train()
    before = trainer.network.table.weight.detach().clone()
    for batch in batches(parts, 8, trainer.generator):
        trainer.step(batch)
    changed = (trainer.network.table.weight.detach() != before).any(dim=1)
    assert changed[np.unique(np.concatenate(data))].all()
    assert changed.sum() <= 60 + 2 * 32


def test_large_catalogues_get_sampled_softmax_and_small_ones_all_items():
    targets = np.zeros(1, dtype=np.int64)
    cpu = torch.device("cpu")
    assert CoreTrainer(99, targets, settings(full_softmax_below=100), cpu).negatives == 0
    assert CoreTrainer(100, targets, settings(full_softmax_below=100), cpu).negatives == 4096
    assert CoreTrainer(99, targets, settings(full_softmax_below=100, sampled_negatives=7), cpu).negatives == 7


def recall_at_5(core, histories, targets):
    """Return the share of targets among the five best items that are not in the history."""
    scores = core.encode(histories) @ core.item_embeddings.T
    for row, history in zip(scores, histories, strict=True):
        row[history] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :5]
    return np.mean([t in b for t, b in zip(targets, best, strict=True)])


@pytest.mark.parametrize(
    "changes", [{}, {"encoder": "average"}, {"sampled_negatives": 40}], ids=["transformer", "average", "sampled"]
)
def test_it_learns_styles_that_popularity_cannot_know(changes):
    core = train_core(item_data(shop(400, 1), 60), None, settings(**changes))
    held_out = shop(200, 2)
    histories, targets = [s[:-1] for s in held_out], [s[-1] for s in held_out]
    assert recall_at_5(core, histories, targets) > 0.8
    popular = np.argsort(-np.bincount(np.concatenate(shop(400, 1)), minlength=60))[:5]
    assert np.isin(targets, popular).mean() < 0.2


def test_same_seed_same_model_and_the_callers_random_state_is_left_alone():
    data = item_data(shop(60, 3), 60)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train_core(data, None, settings(epochs=2))
    assert torch.equal(torch.rand(3), expected)
    second = train_core(data, None, settings(epochs=2))
    other = train_core(data, None, settings(epochs=2, seed=1))
    np.testing.assert_array_equal(first.item_embeddings, second.item_embeddings)
    assert not np.array_equal(first.item_embeddings, other.item_embeddings)


def test_training_stops_when_validation_gets_worse_and_keeps_the_best_epoch():
    data, validation = item_data(shop(150, 4), 60), item_data(shop(80, 5), 60)
    run = Recorder()
    core = train_core(data, validation, settings(epochs=60, patience=2, learning_rate=0.05), run)
    ndcgs = [values["validation_ndcg_at_10"] for _, values in run.steps]
    assert len(ndcgs) < 60
    assert int(np.argmax(ndcgs)) == len(ndcgs) - 3
    assert run.steps[-1][1]["loss"] < run.steps[0][1]["loss"]
    scores = core.encode([s[:-1] for s in validation.sequences]) @ core.item_embeddings.T
    own = scores[np.arange(80), [s[-1] for s in validation.sequences]]
    rank = (scores >= own[:, None]).sum(axis=1)
    assert np.where(rank <= 10, 1 / np.log2(rank + 1), 0).mean() == pytest.approx(max(ndcgs), abs=1e-3)


def test_validation_may_number_its_items_differently_and_know_others():
    data = item_data(shop(100, 6), 60)
    same = item_data(shop(50, 7), 60)
    items = ["a new item", *reversed(same.items)]
    renumbered = ItemSequences(items, [60 - s for s in same.sequences], same.times)
    unusable = ItemSequences(items, [np.array([0, 0]), np.array([7]), np.array([0, 7])], same.times[:3])
    runs = [Recorder(), Recorder(), Recorder()]
    for validation, run in zip((same, renumbered, unusable), runs, strict=True):
        train_core(data, validation, settings(epochs=1), run)
    assert runs[0].steps == runs[1].steps
    assert "validation_ndcg_at_10" not in runs[2].steps[0][1]


def test_encode_takes_the_newest_items_any_order_of_sequences_and_empty_ones():
    core = Core([f"i{n}" for n in range(20)], network(), {})
    long = np.arange(15, dtype=np.int32)
    vectors = core.encode([long, long[-8:], np.array([], dtype=np.int32), np.array([2])], batch_size=2)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert not vectors[2].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[[0, 1, 3]], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[3], core.item_embeddings[2], atol=1e-5)
    assert core.encode([]).shape == (0, 16)


def test_indices_skips_unknown_items():
    core = Core(["a", "b", "c"], network(n_items=3), {})
    assert core.indices(["c", "unknown", "a", "a"]).tolist() == [2, 0, 0]


def test_a_saved_model_loads_as_it_was(tmp_path):
    core = train_core(item_data(shop(40, 8), 60), None, settings(epochs=1))
    core.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["core.json", "core.safetensors"]
    loaded = Core.load(tmp_path)
    assert loaded.items == core.items
    np.testing.assert_array_equal(loaded.item_embeddings, core.item_embeddings)
    histories = shop(10, 9)
    np.testing.assert_array_equal(loaded.encode(histories), core.encode(histories))


def test_anything_but_a_saved_model_is_refused_by_name(tmp_path):
    core = train_core(item_data(shop(40, 8), 60), None, settings(epochs=1))
    with pytest.raises(BadInputError, match=r"core\.json: missing"):
        Core.load(tmp_path)
    core.save(tmp_path)
    description = json.loads((tmp_path / "core.json").read_text())
    (tmp_path / "core.json").write_text(json.dumps({**description, "format": "other"}))
    with pytest.raises(BadInputError, match="'other'"):
        Core.load(tmp_path)
    (tmp_path / "core.json").write_text(json.dumps({**description, "items": description["items"][1:]}))
    with pytest.raises(BadInputError, match=r"core\.safetensors"):
        Core.load(tmp_path)
    (tmp_path / "core.json").write_text(json.dumps({**description, "dim": "x"}))
    with pytest.raises(BadInputError, match="does not describe"):
        Core.load(tmp_path)
    core.save(tmp_path)
    (tmp_path / "core.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(BadInputError, match=r"core\.safetensors"):
        Core.load(tmp_path)


def test_bad_data_says_what_is_wrong():
    with pytest.raises(NothingToTrain, match="two items"):
        train_core(item_data([[1], [], [2]], 5), None, settings())
    with pytest.raises(BadInputError, match=r"item index 9 is outside 0\.\.4"):
        train_core(item_data([[1, 9]], 5), None, settings())
    with pytest.raises(HemlineError, match="lower the learning rate"):
        train_core(item_data(shop(60, 0), 60), None, settings(learning_rate=1e30))
