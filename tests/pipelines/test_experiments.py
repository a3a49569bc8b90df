"""Experiments over the small shop: what each changes, what is not done twice, and what they are compared with."""

import json

import pytest
from rich.console import Console
from small_shop import CATEGORIES

from ml.errors import BadInputError
from ml.experiments import experiments
from pipelines import flows
from pipelines.run import Runner
from pipelines.summary import print_experiments

ABLATIONS = [
    "no_title_embedding", "no_id_embedding", "text_encoder", "no_memory", "no_memory_no_id", "no_attributes",
    "no_memory_no_id_no_attributes",
]  # fmt: skip
CHOSEN = [*ABLATIONS, "zero_shot_Footwear", "low_resource_0.5"]
NEEDED = ["base", "low_resource_1"]
TEXT = {"recformer_queries"}
OTHERS = {"popularity", "markov", "item_knn", "core", "sasrec"} | TEXT
"""The references and the small shop's `evaluation.more_systems`."""


@pytest.fixture(scope="module")
def studied(eve_shop, tmp_path_factory):
    shop = eve_shop.copy(tmp_path_factory.mktemp("experiments") / "shop")
    outcomes = flows.experiments(Runner(shop.settings), CHOSEN)
    assert len(outcomes) == len(NEEDED) + len(CHOSEN), "what they are compared with comes with them"
    return shop


def values(shop, experiment, system="ours_mixup"):
    rows = shop.rows("experiment_metrics", experiment=experiment)
    return {row["metric"]: row for row in rows if row["system"] == system}


def ranks(shop, experiment, system):
    rows = shop.rows("experiment_ranks", experiment=experiment)
    return {row["example_id"]: row["rank"] for row in rows if row["system"] == system}


def test_every_experiment_has_a_row_of_every_system_that_it_can_compare(studied):
    assert set(studied.warehouse.level_values("experiment_metrics", "experiment")) == {*NEEDED, *CHOSEN}
    for name in (*NEEDED, *CHOSEN):
        rows = studied.rows("experiment_metrics", experiment=name)
        others = OTHERS if name.startswith("low_resource") else set()
        systems = {"ours_mixup"} | ({"popularity"} | TEXT if name.startswith("zero_shot") else others)
        assert {(r["system"], r["metric"]) for r in rows} == {
            (s, m) for s in systems for m in ("recall", "ndcg", "mrr")
        }, "a system of item ids says nothing about another category's items"
        for row in rows:
            assert 0 <= row["value"] <= 1 and row["examples"] <= 6
            compared = name not in (*NEEDED, "zero_shot_Footwear")
            assert (row["difference"] is not None) == compared
        assert {r["system"] for r in studied.rows("experiment_ranks", experiment=name)} == systems


def test_a_row_says_from_which_data_settings_seed_and_code_it_comes(studied):
    newest = max(row["target_date"] for row in studied.rows("training_sequences", category="Clothing"))
    for row in studied.rows("experiment_metrics", experiment="low_resource_0.5"):
        settings = json.loads(row["settings"])
        assert settings["experiments"]["prompts"] == 8 and settings["evaluation"]["recformer"]["max_train"] == 20
        assert settings["evaluation"]["baselines"]["epochs"] == 1
        assert row["data"].startswith(f"{newest} ") and row["seed"] == 0
        assert row["code_version"].startswith("0.1.0 ") and row["run_id"] and row["made_from"]
        assert json.loads(row["changes"])["share"] == 0.5
    (ablation,) = {row["settings"] for row in studied.rows("experiment_metrics", experiment="base")}
    assert "recformer" not in json.loads(ablation)["evaluation"], "ablations are about ours alone"


def test_a_difference_is_from_the_same_system_on_the_same_examples(studied):
    for name in ABLATIONS:
        for metric, row in values(studied, name).items():
            assert row["difference"] == pytest.approx(row["value"] - values(studied, "base")[metric]["value"])
    for system in ("ours_mixup", *OTHERS):
        whole = values(studied, "low_resource_1", system)
        for metric, row in values(studied, "low_resource_0.5", system).items():
            assert row["difference"] == pytest.approx(row["value"] - whole[metric]["value"])


def test_ablations_change_what_they_name(studied):
    changes = {
        name: json.loads(studied.rows("experiment_metrics", experiment=name)[0]["changes"]) for name in ABLATIONS
    }
    assert changes["no_title_embedding"]["lists"] == "id" and changes["no_id_embedding"]["lists"] == "title"
    assert changes["text_encoder"]["titles"] == "text_encoder"
    both = changes["no_memory_no_id_no_attributes"]
    assert both["prompts"] == {"max_memory_products": 0, "attributes": []} and both["lists"] == "title"
    adapters = studied.settings.work_folder / "experiments" / "adapters"
    fitted = [path for path in adapters.iterdir() if not path.name.startswith(".")]
    assert len(fitted) == 5, "of the default prompts, without memory, attributes, both, and of half of the prompts"


def test_the_whole_sample_is_base_beside_other_systems(studied):
    assert ranks(studied, "low_resource_1", "ours_mixup") == ranks(studied, "base", "ours_mixup")


@pytest.mark.parametrize("system", ["core", "markov", "item_knn", "popularity", "sasrec", "recformer_queries"])
def test_a_share_is_fitted_on_less(studied, system):
    whole, less = (ranks(studied, name, system) for name in ("low_resource_1", "low_resource_0.5"))
    assert whole.keys() == less.keys() and whole != less


def test_zero_shot_ranks_the_other_categorys_targets(studied):
    own = {row["example_id"] for row in studied.rows("training_sequences", category=CATEGORIES[1])}
    assert {row["example_id"] for row in studied.rows("experiment_ranks", experiment="zero_shot_Footwear")} <= own


def test_zero_shot_text_models_are_those_of_the_source_and_are_fitted_once(studied):
    folder = studied.settings.work_folder / "experiments" / "recformer_queries"
    fits = {path.name: json.loads((path / "recformer.json").read_text()) for path in folder.iterdir()}
    assert len(fits) == 2, "one of the whole sample, zero-shot's too, and one of its half"
    listed = {row["item_id"]: row["category"] for row in studied.rows("catalog")}
    for description in fits.values():
        assert {listed[item] for item in description["items"]} >= set(CATEGORIES[:2])
    found = [rank for rank in ranks(studied, "zero_shot_Footwear", "recformer_queries").values() if rank]
    candidates = sum(category == CATEGORIES[1] for category in listed.values())
    assert found and max(found) <= candidates, "it ranks the asked category's items alone"


def test_what_is_done_is_not_done_again_and_what_changed_is(studied, tmp_path):
    again = studied.copy(tmp_path / "again")
    assert flows.experiments(Runner(again.settings), CHOSEN) == []
    again.change(evaluation={**again.settings.evaluation.model_dump(mode="json"), "more_systems": []})
    assert len(flows.experiments(Runner(again.settings), ["base", "no_title_embedding"])) == 0, "about ours alone"
    again.change(experiments={**again.settings.experiments.model_dump(), "users": 1})
    assert len(flows.experiments(Runner(again.settings), ["no_title_embedding"])) == 2
    assert {row["examples"] for row in again.rows("experiment_metrics", experiment="no_title_embedding")} == {1}


def test_a_category_without_an_example_has_rows_of_no_example(studied, tmp_path):
    empty = studied.copy(tmp_path / "empty")
    flows.experiments(Runner(empty.settings), ["zero_shot_Gifts"])
    rows = empty.rows("experiment_metrics", experiment="zero_shot_Gifts")
    assert {row["examples"] for row in rows} == {0}


def test_the_terminal_shows_what_was_run_and_how_to_run_the_rest(studied):
    console = Console(record=True, width=200)
    print_experiments(console, studied.settings)
    text = console.export_text()
    assert "no_memory: without the query-product memory" in text
    assert "recformer_queries" in text and "not run yet: hemline experiments zero_shot_Bags" in text
    assert not any(f"hemline experiments {name}\n" in text for name in (*NEEDED, *CHOSEN))


def test_the_cheapest_come_first_and_what_others_are_compared_with_before_them(eve_shop):
    listed = experiments(eve_shop.settings)
    names = [experiment.name for experiment in listed]
    assert names[0] == "base" and [e.kind for e in listed] == sorted([e.kind for e in listed], key=order_of_kinds)
    assert all(e.against is None or names.index(e.against) < names.index(e.name) for e in listed)


def order_of_kinds(kind):
    return ["ablation", "zero_shot", "low_resource"].index(kind)


def test_an_unknown_experiment_is_refused(eve_shop):
    with pytest.raises(BadInputError, match=r"experiment 'no_such_thing': expected some of \['base'"):
        flows.experiments(Runner(eve_shop.settings), ["no_such_thing"])
