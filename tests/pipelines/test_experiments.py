"""Experiments over the small shop: what each changes, what is not done twice, and what they are compared with."""

import pytest
from small_shop import CATEGORIES

from ml.errors import BadInputError
from pipelines import flows
from pipelines.run import Runner

CHOSEN = ["no_title_embedding", "no_memory_no_id", "zero_shot_Footwear", "low_resource_0.5"]


@pytest.fixture(scope="module")
def studied(eve_shop, tmp_path_factory):
    shop = eve_shop.copy(tmp_path_factory.mktemp("experiments") / "shop")
    outcomes = flows.experiments(Runner(shop.settings), CHOSEN)
    assert len(outcomes) == 1 + len(CHOSEN), "base comes with those that are compared with it"
    return shop


def values(shop, experiment, system="ours_mixup"):
    rows = shop.rows("experiment_metrics", experiment=experiment)
    return {row["metric"]: row for row in rows if row["system"] == system}


def test_every_experiment_has_its_rows_and_says_what_it_was_made_from(studied):
    assert set(studied.warehouse.level_values("experiment_metrics", "experiment")) == {"base", *CHOSEN}
    for name in ("base", *CHOSEN):
        rows = studied.rows("experiment_metrics", experiment=name)
        systems = {"ours_mixup"} if name.startswith("zero_shot") else {"ours_mixup", "core"}
        systems |= {"recformer_queries"} if name in ("base", "zero_shot_Footwear", "low_resource_0.5") else set()
        assert {(r["system"], r["metric"]) for r in rows} == {
            (s, m) for s in systems for m in ("recall", "ndcg", "mrr")
        }
        for row in rows:
            assert 0 <= row["value"] <= 1 and row["examples"] <= 6
            assert row["made_from"] and row["run_id"] and row["code_version"] and row["question"]
            compared = name not in ("base", "zero_shot_Footwear")
            assert (row["difference"] is not None) == compared
        ranks = studied.rows("experiment_ranks", experiment=name)
        assert {r["system"] for r in ranks} == systems


def test_a_difference_is_from_base_on_the_same_examples(studied):
    for metric, row in values(studied, "no_title_embedding").items():
        assert row["difference"] == pytest.approx(row["value"] - values(studied, "base")[metric]["value"])
    for row in values(studied, "no_title_embedding", "core").values():
        assert row["difference"] == 0, "the same CORE, which no prompt changes"


def test_a_share_is_fitted_on_less(studied):
    base, less = (
        {
            row["example_id"]: row["rank"]
            for row in studied.rows("experiment_ranks", experiment=name)
            if row["system"] == "core"
        }
        for name in ("base", "low_resource_0.5")
    )
    assert base.keys() == less.keys() and base != less


def test_zero_shot_ranks_the_other_categorys_targets(studied):
    own = {row["example_id"] for row in studied.rows("training_sequences", category=CATEGORIES[1])}
    assert {row["example_id"] for row in studied.rows("experiment_ranks", experiment="zero_shot_Footwear")} <= own


def test_what_is_done_is_not_done_again_and_what_changed_is(studied, tmp_path):
    again = studied.copy(tmp_path / "again")
    assert flows.experiments(Runner(again.settings), CHOSEN) == []
    again.change(experiments={**again.settings.experiments.model_dump(), "users": 1})
    assert len(flows.experiments(Runner(again.settings), ["no_title_embedding"])) == 2
    assert {row["examples"] for row in again.rows("experiment_metrics", experiment="no_title_embedding")} == {1}


def test_an_unknown_experiment_is_refused(eve_shop):
    with pytest.raises(BadInputError, match=r"experiment 'no_such_thing': expected some of \['base'"):
        flows.experiments(Runner(eve_shop.settings), ["no_such_thing"])
