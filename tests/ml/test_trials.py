"""The scores that models are compared by: per example, fair to models of other items, and loud about NaN."""

import numpy as np
import pytest
import torch
from test_ranking import OPTIONS, _answered

from ml.ranking.ranker import Ranker
from ml.ranking.stacking import Questions, fit_stacked
from ml.recommend.fitting import Fitted
from ml.recommend.fusing import FittedRanker, Fusion
from ml.recommend.trials import core_gains, ranker_gains, ranker_trial, title_hits
from ml.retrieval import Core
from ml.retrieval.core_model import CoreNetwork
from ml.retrieval.title_training import Pairs
from ml.settings import Settings


def core_of(vectors):
    """A CORE that averages these items' vectors."""
    sizes = {"encoder": "average", "dim": 2, "layers": 1, "heads": 1, "dropout": 0.0, "max_length": 5}
    network = CoreNetwork(len(vectors), **sizes)
    with torch.no_grad():
        network.table.weight.copy_(torch.tensor(list(vectors.values()), dtype=torch.float32))
    return Core(list(vectors), network, sizes)


def test_core_is_scored_by_the_rank_of_what_was_bought():
    core = core_of({"hat": [1.0, 0.0], "cap": [1.0, 0.1], "shoe": [0.0, 1.0], "boot": [0.1, 1.0]})
    gains = core_gains(core, [["hat"], ["hat"], ["shoe"]], ["hat", "cap", "hat"])
    np.testing.assert_allclose(gains, [1.0, 1 / np.log2(3), 1 / np.log2(5)])


def test_what_core_does_not_know_scores_nothing_and_what_is_nan_is_told():
    core = core_of({"hat": [1.0, 0.0], "cap": [1.0, 0.1]})
    assert core_gains(core, [["new"], ["hat"], []], ["hat", "new", "hat"]).tolist() == [0.0, 0.0, 0.0]
    assert core_gains(core, [["new", "hat"]], ["hat"]).tolist() == [1.0], "the rest of the history still counts"
    broken = core_of({"hat": [1.0, 0.0], "cap": [float("nan"), 0.1]})
    assert np.isnan(core_gains(broken, [["hat"]], ["hat"])).all()
    assert core_gains(core, [], []).tolist() == []


class Letters:
    """A title encoder that looks at the first letter; `broken` texts have no vector."""

    def __init__(self, broken=""):
        self.broken = broken

    def encode(self, texts):
        vectors = np.eye(128, dtype=np.float32)[[ord(text[0]) for text in texts]]
        vectors[[text == self.broken for text in texts]] = np.nan
        return vectors


def test_a_title_counts_where_it_is_among_the_ten_closest_to_its_query():
    pairs = Pairs(["hat", "cap"], ["hood", "beret"])
    candidates = [*pairs.title_texts, *(f"x{n}" for n in range(20))]
    assert title_hits(Letters(), pairs, candidates).tolist() == [1.0, 0.0]
    np.testing.assert_array_equal(title_hits(Letters("cap"), pairs, candidates), [1.0, np.nan])
    assert np.isnan(title_hits(Letters("x3"), pairs, candidates)).all()
    assert title_hits(Letters(), Pairs([], []), []).tolist() == []


def test_a_ranker_is_scored_by_questions_that_it_was_not_fitted_on():
    questions = _answered(60, False).plain  # their features say nothing of the target: only by memory can it be named
    questions[5] = None
    stacked = fit_stacked(Questions(questions), OPTIONS.model_copy(update={"epochs": 60}), rank_all=True)
    fitted = FittedRanker(Fitted(None, "ranker", 60, ""), 0, None, questions, stacked.unseen_ranks)
    trial = ranker_trial(Settings(), fitted)
    seen = trial.score(Fusion(stacked.ranker, {}))
    assert len(seen) == len(trial.own) == 60 and seen[5] == trial.own[5] == 0.0
    assert seen.mean() > trial.own.mean(), "its own questions flatter it"
    chance = np.mean([1 / np.log2(rank + 1) if rank <= 10 else 0 for rank in range(1, 21)])
    assert trial.own.mean() == pytest.approx(chance, abs=0.1)


def test_a_ranker_of_broken_weights_has_no_scores():
    ranker = Ranker(4).eval()
    with torch.no_grad():
        next(ranker.layers.parameters()).fill_(float("nan"))
    gains = ranker_gains(Fusion(ranker, {}), _answered(3, False).plain)
    assert np.isnan(gains).all()
