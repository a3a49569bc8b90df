"""The scores that models are compared by: per example, fair to models of other items, and loud about NaN."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
import torch
from test_ranking import OPTIONS, _answered

from ml.fits.fitting import Fitted
from ml.fits.fusing import FittedRanker, Fusion
from ml.fits.trials import (
    PROBES,
    adapter_trial,
    core_gains,
    ranker_gains,
    ranker_trial,
    title_hits,
    title_trial,
)
from ml.language_model import train_adapter
from ml.models.version import ModelVersion
from ml.ranking.ranker import Ranker
from ml.ranking.stacking import Questions, fit_stacked
from ml.retrieval import Core, TitleEncoder
from ml.retrieval.core_model import CoreNetwork
from ml.retrieval.title_training import Pairs
from ml.settings import PromotionSettings, Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse
from tests.ml.language_model_examples import prompts, quick, snapshot

pytestmark = pytest.mark.usefixtures("one_thread")


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
    questions = _answered(40, True).plain  # their features say nothing of the target: only by memory can it be named
    questions[5] = None
    stacked = fit_stacked(Questions(questions), OPTIONS.model_copy(update={"epochs": 20}), rank_all=True)
    fitted = FittedRanker(Fitted(None, "ranker", 40, ""), 0, None, False, questions, stacked.unseen_ranks)
    trial = ranker_trial(Settings(), fitted)
    seen = trial.score(Fusion(stacked.ranker, {}))
    assert len(seen) == len(trial.own) == 40 and seen[5] == trial.own[5] == 0.0
    assert seen.mean() > trial.own.mean(), "its own questions flatter it"
    chance = np.mean([1 / np.log2(rank + 1) if rank <= 10 else 0 for rank in range(1, 21)])
    assert trial.own.mean() == pytest.approx(chance, abs=0.15)


def test_a_ranker_of_broken_weights_has_no_scores():
    ranker = Ranker(4).eval()
    with torch.no_grad():
        next(ranker.layers.parameters()).fill_(float("nan"))
    gains = ranker_gains(Fusion(ranker, {}), _answered(3, False).plain)
    assert np.isnan(gains).all()


def adapters(tmp_path):
    """A snapshot, an adapter that learnt its prompts, and one that learnt nothing."""
    base = snapshot(tmp_path / "base-1")
    train = prompts(64)
    folders = {}
    for name, rate in {"sound": 0.02, "poor": 1e-9}.items():
        made = train_adapter(base, train, prompts(0), quick(learning_rate=rate, epochs=6), tmp_path / name)
        folders[name] = made.folder
    return base, folders


def test_language_models_are_compared_by_what_they_think_of_the_same_responses(tmp_path):
    base, folders = adapters(tmp_path)
    settings = Settings(language_model=quick(), promotion=PromotionSettings(prompts=40))
    trial = adapter_trial(settings, base, prompts(64))
    scores = {name: trial.score(trial.load(folder)) for name, folder in folders.items()}
    assert all(len(own) == 40 and np.isfinite(own).all() and own.max() < 0 for own in scores.values())
    assert trial.margin == settings.promotion.loss_margin
    assert (scores["sound"] - scores["poor"]).mean() > trial.margin
    assert len(trial.probe(trial.load(folders["sound"]))) == PROBES
    assert len(adapter_trial(settings, base, prompts(0)).score(trial.load(folders["sound"]))) == 0

    def champion(folder):
        return ModelVersion("adapter", "Clothing", "1", folders["poor"], "run", {"base_folder": folder})

    assert trial.incomparable(champion("base-1")) is None
    assert "another base model (base-0, now base-1)" in trial.incomparable(champion("base-0"))


def test_title_encoders_are_compared_on_the_validation_pairs_alone(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    titles = ["Sun hat", "Rain hat", "Red shoe"]
    catalog = [{"item_id": f"i{n}", "title": title, "category": "Hats"} for n, title in enumerate(titles)]
    blank = {"attributes": [], "first_seen": None, "last_seen": None, "listed_on": None, "available": None}
    schema = TABLES["catalog"].schema
    warehouse.publish("catalog", pa.Table.from_pylist([blank | row for row in catalog], schema))
    pairs = [
        {"event_id": f"e{n}", "query": "hat", "item_id": "i0", "title": titles[0], "date": date(2026, 3, n + 1),
         "temporal_split": split, "leave_one_out_split": "train"}
        for n, split in enumerate(["train", "validation", "validation", "test"])
    ]  # fmt: skip
    table = pa.Table.from_pylist(pairs, TABLES["query_title_pairs"].schema)
    warehouse.publish("query_title_pairs", table, category="Hats")
    TitleEncoder.untrained(titles, 300, dim=4, hidden=4, max_tokens=8).save(tmp_path / "encoder")
    trial = title_trial(Settings(), warehouse, ["Hats"])
    assert trial.score(trial.load(tmp_path / "encoder")).tolist() == [1.0, 1.0], "three titles are always in ten"
    assert len(title_trial(Settings(), warehouse, ["Coats"]).score(trial.load(tmp_path / "encoder"))) == 0
