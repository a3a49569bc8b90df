"""Recformer as a system: it learns from text, ranks items never seen, and its training is algorithm 1."""

import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from test_baselines_recformer_text import COLOURS, NOUNS, catalog_of, rows_of, save_encoder

from ml.baselines.recformer import Recformer, RowSystem
from ml.baselines.recformer_model import RecformerNetwork, load_encoder
from ml.baselines.recformer_settings import RecformerSettings
from ml.baselines.recformer_text import RecformerText
from ml.baselines.recformer_training import HeldOut, RecformerTrainer, batches
from ml.errors import BadInputError, HemlineError
from ml.evaluation.protocol import item_examples, rank_targets
from ml.retrieval.errors import NothingToTrain
from ml.sequences import ItemSequences, purchases_only

ITEMS = {f"{colour} {noun}": f"{colour} {noun}" for colour in COLOURS for noun in NOUNS}
SOLD, NEW = NOUNS[:8], NOUNS[8:]


def quick(folder, **changes):
    """Settings under which a tiny random encoder learns something in seconds."""
    values = dict(learning_rate=5e-3, pretrain_epochs=1, finetune_epochs=4, patience=2, max_tokens=32, max_items=6)
    return RecformerSettings(**{"encoder": str(folder), **values, **changes})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def loyal_customers(count, seed=0):
    """Customers who keep to one colour, whatever they buy of what is sold."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        names = [f"{COLOURS[n % 4]} {noun}" for noun in rng.choice(SOLD, 4)]
        rows.append((f"u{n:03d}", names[:-1], names[-1]))
    return rows


def asking_customers(count, nouns, seed=0):
    """Customers whose history says nothing, and who buy in the colour of their newest search."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        wanted = COLOURS[n % 4]
        before = [f"{rng.choice(COLOURS)} {noun}" for noun in rng.choice(SOLD, 2)]
        rows.append((f"u{n:03d}", [*before, f"?{wanted}"], f"{wanted} {rng.choice(nouns)}"))
    return rows


def share_in_colour(system, rows):
    """How often the best of the items that training never saw has the target's colour."""
    scores = system.scores_examples(rows_of(*rows, split="test"))
    new = [i for i, item in enumerate(system.items) if item.split()[1] in NEW]
    best = [system.items[new[place]] for place in scores[:, new].argmax(axis=1)]
    return np.mean([item.split()[0] == target.split()[0] for item, (_, _, target) in zip(best, rows, strict=True)])


def trainer_of(encoder, rows, held_out=None, **changes):
    settings = quick(encoder, **changes)
    torch.manual_seed(0)
    model, tokenizer = load_encoder(settings)
    text = RecformerText(tokenizer, catalog_of(ITEMS), settings)
    places = {item: i for i, item in enumerate(ITEMS)}
    sequences = [np.array([places[item] for item in (*steps, target)]) for _, steps, target in rows]
    if held_out is not None:
        histories = [np.array([places[item] for item in steps]) for _, steps, _ in held_out]
        held_out = HeldOut(histories, np.array([places[target] for _, _, target in held_out]))
    return RecformerTrainer(RecformerNetwork(model, settings), text, sequences, held_out, settings)


def test_it_learns_a_pattern_of_the_text_and_ranks_items_it_never_saw(encoder):
    system = Recformer(quick(encoder, finetune_epochs=5), catalog_of(ITEMS), with_queries=False)
    system.fit_examples(rows_of(*loyal_customers(160)), "temporal", rows_of(*loyal_customers(40, seed=1), split="x"))
    assert system.items == list(ITEMS) and system.name == "recformer"
    assert share_in_colour(system, loyal_customers(60, seed=2)) > 0.8, "chance is 0.25"


def test_a_search_is_read_only_with_queries(encoder):
    train, tests = rows_of(*asking_customers(320, SOLD)), asking_customers(60, NEW, seed=1)
    settings = quick(encoder, pretrain_epochs=10, finetune_epochs=8, learning_rate=2e-3)
    shares = {}
    for with_queries in (True, False):
        system = Recformer(settings, catalog_of(ITEMS), with_queries)
        system.fit_examples(train, "leave_one_out")
        shares[system.name] = share_in_colour(system, tests)
        history = ["blue hat", "green coat"]
        asked = rows_of(("a", [*history, "?red"], "red tie"), ("b", [*history, "?black"], "red tie"), split="test")
        first, second = system.scores_examples(asked)
        assert (first == second).all() != with_queries
    assert shares["recformer_queries"] > 0.9, "chance is 0.25"
    assert shares["recformer"] < 0.5


def test_the_same_seed_gives_the_same_scores_and_a_second_fit_starts_anew(encoder):
    rows, tests = rows_of(*loyal_customers(24)), rows_of(*loyal_customers(5, seed=1))
    settings = quick(encoder, finetune_epochs=1)
    first, second = (Recformer(settings, catalog_of(ITEMS), False) for _ in range(2))
    first.fit_examples(rows, "temporal")
    torch.manual_seed(99)
    second.fit_examples(rows_of(*loyal_customers(24, seed=5)), "temporal")
    second.fit_examples(rows, "temporal")
    assert (first.scores_examples(tests) == second.scores_examples(tests)).all()
    third = Recformer(quick(encoder, finetune_epochs=1, seed=1), catalog_of(ITEMS), False)
    third.fit_examples(rows, "temporal")
    assert not np.allclose(first.scores_examples(tests), third.scores_examples(tests), atol=1e-3)


def test_only_training_rows_are_learnt_from_and_only_steps_are_scored(encoder):
    rows, tests = loyal_customers(16), loyal_customers(6, seed=1)
    later = [(user, [*steps, target], "black tie") for user, steps, target in rows]
    settings = quick(encoder, finetune_epochs=1)
    plain, mixed = (Recformer(settings, catalog_of(ITEMS), False) for _ in range(2))
    plain.fit_examples(rows_of(*rows), "temporal")
    mixed.fit_examples(pa.concat_tables([rows_of(*rows), rows_of(*later, split="test")]), "temporal")
    scores = plain.scores_examples(rows_of(*tests))
    assert (mixed.scores_examples(rows_of(*tests)) == scores).all()
    other_targets = [(user, steps, "black tie") for user, steps, _ in tests]
    assert (plain.scores_examples(rows_of(*other_targets)) == scores).all()


def test_scores_are_cosines_and_an_empty_history_knows_nothing(encoder):
    system = Recformer(quick(encoder, pretrain_epochs=0, finetune_epochs=0), catalog_of(ITEMS), False)
    system.fit_examples(rows_of(*loyal_customers(4)), "temporal")
    rows = rows_of(("a", ["red hat"], "red tie"), ("b", [], "red tie"), ("c", ["?red", "gone"], "red tie"))
    scores = system.scores_examples(rows)
    assert scores.shape == (3, len(ITEMS)) and scores.dtype == np.float32
    assert (np.abs(scores[0]) <= 1 + 1e-5).all() and np.argmax(scores[0]) == system.items.index("red hat")
    assert scores[0].max() == pytest.approx(1, abs=1e-5), "an item's vector is that of the history of that item alone"
    assert (scores[1:] == -np.inf).all()
    assert (system.scores_examples(purchases_only(rows, 1)) == -np.inf).all(), "clicks alone are no purchases"
    assert system.scores_examples(rows.slice(0, 0)).shape == (0, len(ITEMS))


def test_the_protocol_ranks_it_row_by_row(encoder, monkeypatch):
    system = Recformer(quick(encoder, pretrain_epochs=0, finetune_epochs=0), catalog_of(ITEMS), False)
    system.fit_examples(rows_of(*loyal_customers(4)), "temporal")
    tests = rows_of(*loyal_customers(9, seed=1), ("z", [], "red tie"), ("z", ["red hat"], "elsewhere"), split="test")
    monkeypatch.setattr("ml.evaluation.protocol._CELLS", 2 * len(ITEMS))
    adapter = RowSystem(system, tests)
    days = [f"2020-01-{1 + n % 3:02d}" for n in range(tests.num_rows)]
    adapter.examples.days[:] = days
    scores = system.scores_examples(tests)
    targets = tests["target_item"].to_pylist()
    own = [scores[n, system.items.index(t)] if t in ITEMS else np.nan for n, t in enumerate(targets)]
    expected = [(scores[n] >= value - 1e-6).sum() if value == value else np.nan for n, value in enumerate(own)]
    for available in (None, lambda day: list(ITEMS)):
        ranks = rank_targets(adapter, adapter.examples, ITEMS, available)
        assert ranks[:-1].tolist() == expected[:-1] and np.isnan(ranks[-1])
    assert ranks[9] == len(ITEMS), "an empty history ranks last"
    assert adapter.examples.targets == item_examples(tests).targets
    with pytest.raises(BadInputError, match="fit_examples"):
        adapter.fit(ItemSequences([], [], []))


def test_stage_one_keeps_the_best_epoch_and_stage_two_its_item_matrix(encoder, monkeypatch):
    trainer = trainer_of(encoder, loyal_customers(24), loyal_customers(12, seed=1), finetune_epochs=4, patience=2)
    ndcgs = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.6, 0.55, 0.5])
    states, matrices, encoded_by = [], [], []
    encode_items = trainer.encode_items

    def recorded(items):
        encoded_by.append(trainer._weights())
        return encode_items(items)

    def told(vectors):
        states.append(trainer._weights())
        matrices.append(vectors)
        return next(ndcgs)

    monkeypatch.setattr(trainer, "encode_items", recorded)
    monkeypatch.setattr(trainer, "_validation_ndcg", told)
    best = trainer.finetune()
    # Stage 1: four epochs, stopped by patience after the second, best one; stage 2: 0.2, 0.6 (kept), 0.55, 0.5.
    assert len(states) == 8 and best.ndcg == 0.6
    assert len(encoded_by) == 4, "stage 2 encodes no item"
    assert not np.allclose(matrices[0], matrices[1], atol=1e-3), "stage 1 encodes them anew"
    assert all(matrix is matrices[1] for matrix in matrices[4:]) and best.item_vectors is matrices[1]
    assert same(best.weights, states[5]) and same(trainer._weights(), states[5])
    assert same(best.item_weights, encoded_by[1]) and same(encoded_by[1], states[0])
    assert not same(states[3], states[4])


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_stage_two_starts_from_the_best_epoch(encoder, monkeypatch):
    trainer = trainer_of(encoder, loyal_customers(24), finetune_epochs=2)
    values, starts = iter([0.5, 0.4, 0.3, 0.2]), []
    run_epoch = trainer._finetune_epoch
    after = []

    def recorded(*arguments):
        starts.append(trainer._weights())
        run_epoch(*arguments)
        after.append(trainer._weights())

    monkeypatch.setattr(trainer, "_finetune_epoch", recorded)
    monkeypatch.setattr(trainer, "_validation_ndcg", lambda vectors: next(values))
    best = trainer.finetune()
    assert same(starts[2], after[0]) and same(best.weights, after[0])
    assert not same(starts[2], after[1]), "the second epoch of stage 1 is forgotten"


def test_cold_items_are_encoded_by_the_weights_that_made_the_matrix(encoder):
    system = Recformer(quick(encoder, finetune_epochs=2), catalog_of(ITEMS), False)
    system.fit_examples(rows_of(*loyal_customers(24)), "temporal", rows_of(*loyal_customers(8, seed=1)))
    twin = dict(ITEMS) | {"twin": "red dress"}
    other = Recformer(quick(encoder, finetune_epochs=2), catalog_of(twin), False)
    other.fit_examples(rows_of(*loyal_customers(24)), "temporal", rows_of(*loyal_customers(8, seed=1)))
    vectors = dict(zip(other.items, other.item_vectors, strict=True))
    assert np.allclose(vectors["twin"], vectors["red dress"], atol=1e-5), "an unseen item with a seen one's text"
    assert np.allclose(other.item_vectors[:-1], system.item_vectors, atol=1e-5)


def test_histories_are_read_by_the_best_epochs_weights(encoder, monkeypatch):
    kept, finetune = [], RecformerTrainer.finetune
    monkeypatch.setattr(RecformerTrainer, "finetune", lambda trainer: kept.append(finetune(trainer)) or kept[0])
    system = Recformer(quick(encoder, finetune_epochs=1), catalog_of(ITEMS), False)
    system.fit_examples(rows_of(*loyal_customers(24)), "temporal")
    assert system._network is not None
    assert same(system._network.state_dict(), kept[0].weights)
    assert not same(kept[0].weights, kept[0].item_weights)


def test_the_item_matrix_holds_what_training_saw_and_validation_what_it_can_rank(encoder):
    held_out = [("a", ["red hat"], "red dress"), ("b", ["red dress"], "red tie"), ("c", [], "red dress")]
    trainer = trainer_of(encoder, [("u", ["red dress", "blue hat"], "red coat")], held_out)
    assert [list(ITEMS)[i] for i in trainer.item_rows] == ["red dress", "red coat", "blue hat"]
    assert trainer.held_out is not None and len(trainer.held_out.histories) == 1
    vectors = trainer.encode_items(trainer.item_rows)
    (target,), ndcg = trainer.held_out.targets, trainer._validation_ndcg(vectors)
    session = trainer.encode_items(np.array([list(ITEMS).index("red hat")]))[0]
    rank = (vectors @ session >= (vectors @ session)[0]).sum()
    assert target == 0 and ndcg == pytest.approx(1 / np.log2(rank + 1))


def test_pretraining_lowers_both_of_its_losses(encoder, caplog):
    trainer = trainer_of(encoder, loyal_customers(96), pretrain_epochs=6)
    with caplog.at_level(logging.INFO, logger="ml.baselines.recformer_training"):
        trainer.pretrain()
    losses = [float(r.getMessage().split("loss ")[1].split(",")[0]) for r in caplog.records]
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.3
    assert "tokens_per_second" in caplog.records[0].getMessage()


def test_max_train_is_a_seeded_sample(encoder):
    rows = loyal_customers(30)
    whole = trainer_of(encoder, rows)
    some, again = (trainer_of(encoder, rows, max_train=10).sequences for _ in range(2))
    assert len(whole.sequences) == 30 and len(some) == 10
    assert [s.tolist() for s in some] == [s.tolist() for s in again]
    other = trainer_of(encoder, rows, max_train=10, seed=1).sequences
    assert [s.tolist() for s in some] != [s.tolist() for s in other]


def test_batches_hold_every_row_once():
    lengths = np.random.default_rng(0).integers(1, 50, 103)
    found = list(batches(lengths, 8, np.random.default_rng(0)))
    assert sorted(np.concatenate(found).tolist()) == list(range(103))
    assert max(len(rows) for rows in found) == 8


def test_what_cannot_be_trained_is_said(encoder):
    system = Recformer(quick(encoder), catalog_of(ITEMS), False)
    with pytest.raises(BadInputError, match="fit it"):
        system.scores_examples(rows_of(("a", ["red hat"], "red tie")))
    with pytest.raises(BadInputError, match="split 'weekly'"):
        system.fit_examples(rows_of(*loyal_customers(2)), "weekly")
    with pytest.raises(NothingToTrain):
        system.fit_examples(rows_of(("a", [], "red hat"), ("b", ["gone"], "red tie")), "temporal")
    with pytest.raises(NothingToTrain):
        system.fit_examples(rows_of(*loyal_customers(2), split="test"), "temporal")
    broken = Recformer(quick(encoder, learning_rate=1e30, pretrain_epochs=3), catalog_of(ITEMS), False)
    with pytest.raises(HemlineError, match=r"lower the learning rate"):
        broken.fit_examples(rows_of(*loyal_customers(80)), "temporal")


def test_a_saved_model_scores_as_it_did_and_another_catalogue_is_refused(encoder, tmp_path):
    settings = quick(encoder, finetune_epochs=1)
    system = Recformer(settings, catalog_of(ITEMS), with_queries=True)
    with pytest.raises(BadInputError, match="recformer_queries has no items to score"):
        system.save(tmp_path)
    system.fit_examples(rows_of(*loyal_customers(16)), "temporal")
    system.save(tmp_path)
    loaded = Recformer.load(tmp_path, settings, catalog_of(ITEMS))
    tests = rows_of(*loyal_customers(6, seed=1), split="test")
    assert loaded.name == "recformer_queries"
    np.testing.assert_array_equal(loaded.scores_examples(tests), system.scores_examples(tests))
    fewer = dict(list(ITEMS.items())[1:])
    with pytest.raises(BadInputError, match="a catalogue of other items"):
        Recformer.load(tmp_path, settings, catalog_of(fewer))
