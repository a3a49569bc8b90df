"""The title encoder: any text has a vector, training brings queries to the titles bought from them, nothing leaks."""

import datetime
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import sparse

from ml.errors import BadInputError
from ml.retrieval import NothingToTrain, TitleEncoder, train_title_encoder
from ml.retrieval.title_training import Pairs, hard_negatives
from ml.settings import TitleEncoderSettings

SMALL = {"dim": 16, "hidden": 16, "batch_size": 16, "vocabulary": 400, "learning_rate": 0.01, "negative_pool": 64}
# the shop's own words for things, which no query uses
WORDS = {"trousers": "pantalon", "shirt": "chemise", "dress": "robe", "coat": "manteau", "hat": "chapeau"}
COLOURS = {"red": "rouge", "blue": "bleu", "green": "vert", "black": "noir", "white": "blanc", "pink": "rose"}


pytestmark = pytest.mark.usefixtures("one_thread")


class Recorder:
    """The part of a tracked run that training uses."""

    def __init__(self):
        self.steps = {}

    def metrics(self, values, step=None):
        self.steps.setdefault(step, {}).update(values)

    def metric(self, name, value, step=None):
        self.metrics({name: value}, step)


def table(pairs, first_day="2020-01-01"):
    first = datetime.date.fromisoformat(first_day)
    return pa.table(
        {
            "event_id": [f"e{n:05}" for n in range(len(pairs))],
            "query": pa.array([q for q, _ in pairs], pa.string()),
            "title": pa.array([t for _, t in pairs], pa.string()),
            "date": pa.array([first + datetime.timedelta(days=n) for n in range(len(pairs))], pa.date32()),
        }
    )


def pairs_of(count, seed, left_out=False):
    """Query-title pairs; the last colour of each word is only used where `left_out`."""
    generator = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        word = list(WORDS)[generator.integers(len(WORDS))]
        colours = list(COLOURS)
        own = list(WORDS).index(word)
        colour = colours[own] if left_out else [c for c in colours if c != colours[own]][generator.integers(5)]
        result.append((f"{colour} {word}", f"{WORDS[word].title()} {COLOURS[colour]} {generator.integers(3)}"))
    return result


TITLES = [f"{w.title()} {c} {n}" for w in WORDS.values() for c in COLOURS.values() for n in range(3)]


def settings(**changes):
    return TitleEncoderSettings.model_validate({**SMALL, "epochs": 6, **changes})


@pytest.fixture(scope="module")
def trained():
    run = Recorder()
    encoder = train_title_encoder(
        table(pairs_of(300, 0)), table(pairs_of(60, 1, left_out=True)), TITLES, settings(), run
    )
    return encoder, run


def test_training_finds_the_titles_of_queries_never_seen(trained):
    _, run = trained
    recalls = [run.steps[n]["validation_recall_at_10"] for n in sorted(run.steps)]
    assert len(recalls) == 7
    assert recalls[0] < 0.4
    assert max(recalls[1:]) > recalls[0] + 0.3
    assert run.steps[6]["loss"] < run.steps[1]["loss"]


def test_the_best_epoch_is_kept(trained):
    encoder, run = trained
    queries = encoder.encode([q for q, _ in pairs_of(60, 1, left_out=True)])
    titles = encoder.encode(TITLES)
    own = [TITLES.index(t) for _, t in pairs_of(60, 1, left_out=True)]
    scores = queries @ titles.T
    rank = (scores >= scores[np.arange(60), own][:, None]).sum(axis=1)
    best = max(run.steps[n]["validation_recall_at_10"] for n in range(1, 7))
    assert (rank <= 10).mean() == pytest.approx(best, abs=0.02)


@hypothesis_settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=40), max_size=6))
def test_any_text_has_a_unit_vector_that_does_not_depend_on_its_company(trained, texts):
    encoder, _ = trained
    vectors = encoder.encode(texts, batch_size=2)
    assert vectors.shape == (len(texts), 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=1e-5)


def test_long_and_strange_texts(trained):
    encoder, _ = trained
    texts = ["x" * 1_000_000, "\0\u202e\u200d", "", "[EMPTY]", "зимнее пальто", "👗" * 50, "Robe  ROUGE"]
    vectors = encoder.encode([*texts, "robe rouge"])
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors[-1], vectors[-2])
    np.testing.assert_array_equal(vectors[1], vectors[2])
    assert not np.allclose(vectors[3], vectors[2], atol=1e-3), "a title that spells the special token is text"
    assert not np.allclose(vectors[4], vectors[5], atol=1e-3)


def test_equal_texts_get_equal_vectors_in_any_batch(trained):
    encoder, _ = trained
    vectors = encoder.encode(["robe", *TITLES, "robe"], batch_size=3)
    np.testing.assert_array_equal(vectors[0], vectors[-1])


POOL = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
ANCHORS = np.array([[1, 0]] * 4, dtype=np.float32)
BOUGHT = sparse.csr_array(np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], dtype=bool))


def test_a_negative_was_never_bought_and_is_the_closest_that_is_not_closer_than_the_positive():
    positive = np.array([0.9, 0.9, -0.5, 0.9])
    got = hard_negatives(ANCHORS, POOL, positive, BOUGHT, hardest=False)
    assert got.tolist() == [1, 1, 2, -1], "third: all are closer, so the farthest"


def test_the_papers_negative_is_the_closest_that_was_never_bought():
    assert hard_negatives(ANCHORS, POOL, np.zeros(4), BOUGHT, hardest=True).tolist() == [0, 1, 0, -1]


@pytest.mark.parametrize("negatives", ["semi_hard", "hardest"])
def test_both_kinds_of_negatives_train(negatives):
    run = Recorder()
    train_title_encoder(
        table(pairs_of(200, 0)), table([]), TITLES, settings(epochs=3, negatives=negatives, negative_pool=32), run
    )
    assert run.steps[3]["loss"] < run.steps[1]["loss"]
    assert 0 not in run.steps, "nothing to validate on, nothing said about it"


def test_titles_equal_but_for_case_and_spaces_are_one_title_and_so_never_a_negative():
    pairs = Pairs(["q1", "q2"], ["Red  Dress", "red dress"])
    assert len(pairs.title_texts) == 1
    assert pairs.bought.toarray().tolist() == [[True], [True]]


def test_one_query_or_one_title_has_no_negative_and_still_trains():
    encoder = train_title_encoder(table([("q", "t")] * 3), table([]), ["t"], settings(epochs=1))
    assert np.isfinite(encoder.encode(["t"])).all()


def test_only_the_newest_pairs_are_used_and_rows_may_come_in_any_order():
    pairs = table(pairs_of(40, 3))
    newest = pairs.slice(20)
    shuffled = pairs.take(np.random.default_rng(0).permutation(40))
    titles = sorted(set(newest["title"].to_pylist()))
    first = train_title_encoder(shuffled, table([]), titles, settings(epochs=1, max_pairs=20))
    second = train_title_encoder(newest, table([]), titles, settings(epochs=1))
    np.testing.assert_array_equal(first.encode(titles), second.encode(titles))


def test_same_seed_same_encoder_and_the_callers_random_state_is_left_alone():
    pairs = table(pairs_of(40, 4))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (train_title_encoder(pairs, table([]), TITLES, settings(epochs=1)) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    other = train_title_encoder(pairs, table([]), TITLES, settings(epochs=1, seed=1))
    np.testing.assert_array_equal(first.encode(TITLES), second.encode(TITLES))
    assert not np.array_equal(first.encode(TITLES), other.encode(TITLES))


def test_several_threads_make_the_same_encoder_each_time():
    pairs, big = table(pairs_of(300, 4)), settings(epochs=2, batch_size=256, negative_pool=256, dim=128)
    torch.set_num_threads(4)
    try:
        first, *others = (train_title_encoder(pairs, table([]), TITLES, big).encode(TITLES) for _ in range(4))
    finally:
        torch.set_num_threads(1)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_another_process_makes_the_same_tokenizer(trained):
    from ml.retrieval.title_encoder import train_tokenizer

    code = (
        "import sys; from ml.retrieval.title_encoder import train_tokenizer;"
        "sys.stdout.write(train_tokenizer(sys.stdin.read().split('|'), 400).to_str())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], input="|".join(TITLES), capture_output=True, text=True, check=True
    )
    assert json.loads(other.stdout) == json.loads(train_tokenizer(TITLES, 400).to_str())


def test_no_pair_at_all_is_said_so_that_the_caller_can_fall_back():
    with pytest.raises(NothingToTrain):
        train_title_encoder(table([]), table([]), ["t"], settings())
    with pytest.raises(NothingToTrain):
        train_title_encoder(table([(None, "t"), ("q", None), (" ", "t"), ("q", "")]), table([]), ["t"], settings())


def test_a_saved_encoder_loads_as_it_was(trained, tmp_path):
    encoder, _ = trained
    encoder.save(tmp_path)
    names = ["title_encoder.json", "title_encoder.safetensors", "tokenizer.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    loaded = TitleEncoder.load(tmp_path)
    texts = [*TITLES, "", "[EMPTY]", "neu"]
    np.testing.assert_array_equal(loaded.encode(texts), encoder.encode(texts))


def test_anything_but_a_saved_encoder_is_refused_by_name(trained, tmp_path):
    encoder, _ = trained
    with pytest.raises(BadInputError, match=r"title_encoder\.json: missing"):
        TitleEncoder.load(tmp_path)
    encoder.save(tmp_path)
    (tmp_path / "title_encoder.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(BadInputError, match=r"title_encoder\.safetensors"):
        TitleEncoder.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"tokenizer\.json"):
        TitleEncoder.load(tmp_path)
    encoder.save(tmp_path)
    (tmp_path / "title_encoder.json").write_text('{"format": "hemline-title-encoder-1", "dim": 16}')
    with pytest.raises(BadInputError, match="does not describe"):
        TitleEncoder.load(tmp_path)
    (tmp_path / "title_encoder.json").write_text("{")
    with pytest.raises(BadInputError, match="not JSON"):
        TitleEncoder.load(tmp_path)


def test_importing_the_package_loads_no_torch_and_no_faiss():
    code = "import sys, ml.retrieval; sys.exit(bool({'torch', 'faiss', 'tokenizers', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
