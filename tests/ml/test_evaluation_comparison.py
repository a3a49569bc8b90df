"""Differences from ours, groups of test examples, best items, and what a comparison keeps between tries."""

import numpy as np
import pyarrow as pa
import pytest

from ml.comparison.contenders import Ranked
from ml.comparison.finished import Finished
from ml.errors import BadInputError
from ml.evaluation import ItemExamples, best_items, breakdown_rows, difference_rows, example_groups, rank_rows
from ml.evaluation.metrics import metric_values
from ml.settings import EvaluationSettings, Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

SETTINGS = EvaluationSettings(resamples=100)


def ranks_of(systems, candidates="catalogue"):
    return pa.concat_tables(
        rank_rows(name, "temporal", "all", candidates, [f"e{i}" for i in range(len(ranks))], ranks)
        for name, ranks in systems.items()
    )


def shown_of(histories, targets):
    ids = [f"e{i}" for i in range(len(targets))]
    ages = [np.arange(len(history), dtype=float) for history in histories]
    return ItemExamples(ids, histories, ages, targets, ["2026-01-01"] * len(ids))


def test_the_difference_is_ours_minus_theirs_on_the_same_examples():
    ours, theirs = [1, 2, None, 11], [2, 1, None, 40]
    rows = difference_rows(ranks_of({"core": theirs, "ours": ours, "zero": [None] * 4}), SETTINGS)
    assert rows.schema.equals(TABLES["evaluation_differences"].schema)
    found = {(row["system"], row["metric"]): row for row in rows.to_pylist()}
    assert set(found) == {(s, m) for s in ("core", "zero") for m in ("recall", "ndcg", "mrr")}
    assert found["core", "recall"]["value"] == 0 == found["core", "recall"]["ratio"]
    mean = {name: values.mean() for name, values in metric_values(ours, 10).items()}
    other = {name: values.mean() for name, values in metric_values(theirs, 10).items()}
    assert found["core", "mrr"]["value"] == pytest.approx(mean["mrr"] - other["mrr"])
    assert found["core", "mrr"]["ratio"] == pytest.approx(mean["mrr"] / other["mrr"] - 1)
    assert found["zero", "ndcg"]["ratio"] is None, "nothing is a multiple of 0"
    assert found["zero", "ndcg"]["low"] <= found["zero", "ndcg"]["value"] <= found["zero", "ndcg"]["high"]


def test_other_examples_are_no_comparison_and_a_view_without_ours_has_none():
    mixed = pa.concat_tables([ranks_of({"ours": [1, 2]}), ranks_of({"core": [1]})])
    with pytest.raises(BadInputError, match="core and ours did not score the same examples"):
        difference_rows(mixed, SETTINGS)
    assert difference_rows(ranks_of({"core": [1, 2]}), SETTINGS).num_rows == 0


def test_every_example_is_in_the_groups_it_belongs_to():
    shown = shown_of([["a"], ["a", "b", "c"], ["x"] * 25], ["a", "new", "x"])
    test = pa.table({"target_query": pa.array(["dress", None, None], pa.string())})
    groups = example_groups(shown, test, {"a", "b"})
    assert groups == {
        ("history", "under 3 steps"): {"e0"},
        ("history", "3 to 5 steps"): {"e1"},
        ("history", "21 steps and more"): {"e2"},
        ("search", "from a search"): {"e0"},
        ("search", "without a search"): {"e1", "e2"},
        ("repeat", "in the history"): {"e0", "e2"},
        ("repeat", "new to the customer"): {"e1"},
        ("cold", "in training"): {"e0"},
        ("cold", "not in training"): {"e1", "e2"},
        ("cold", "in no sequence"): {"e1"},
    }


def test_a_group_has_the_metrics_of_its_examples_among_the_catalogue():
    groups = {("cold", "in training"): {"e0", "e2"}, ("cold", "not in training"): {"e1"}}
    ranks = pa.concat_tables([ranks_of({"ours": [1, None, 3]}), ranks_of({"ours": [9, 9, 9]}, "available")])
    rows = breakdown_rows(ranks, groups, SETTINGS)
    assert rows.schema.equals(TABLES["evaluation_breakdowns"].schema)
    found = {(row["group"], row["metric"]): (row["value"], row["examples"]) for row in rows.to_pylist()}
    assert found["in training", "mrr"] == (pytest.approx((1 + 1 / 3) / 2), 2)
    assert found["not in training", "recall"] == (0, 1)
    assert len(found) == rows.num_rows == 6


class Fixed:
    name, items = "fixed", ["a", "b", "c", "d"]

    def fit(self, data, validation=None):
        pass

    def scores(self, histories, ages):
        return np.tile([1.0, 3.0, 1.0, -np.inf], (len(histories), 1))


def test_best_items_are_of_the_catalogue_and_known():
    lists = best_items(Fixed(), shown_of([["a"], ["b"]], ["a", "a"]), [1], ["c", "a", "d", "unheard of"], 3)
    assert lists == {"e1": ["a", "c"]}


@pytest.fixture
def shop_of_one(tmp_path):
    settings = Settings(warehouse=tmp_path / "warehouse", home=tmp_path, categories=["Hats"])
    return settings, Warehouse(settings.warehouse), tmp_path / "finished"


def finished(shop_of_one, ours=("adapter", "1"), **changes):
    settings, warehouse, folder = shop_of_one
    return Finished(settings.model_copy(update=changes), warehouse, "Hats", folder, ours)


def test_what_was_finished_is_found_again(shop_of_one):
    made = Ranked("core", {"catalogue": np.array([1.0, np.nan])}, {"e0": ["a", "b"]}, 1.5, 0.5, 100)
    finished(shop_of_one).save("temporal/all", "core", [made])
    (found,) = finished(shop_of_one).load("temporal/all", "core")
    np.testing.assert_array_equal(found.ranks["catalogue"], made.ranks["catalogue"])
    assert {**vars(found), "ranks": 0} == {**vars(made), "ranks": 0}
    assert finished(shop_of_one).load("temporal/purchases_only", "core") is None
    assert finished(shop_of_one).load("temporal/all", "markov") is None


def test_a_result_of_other_inputs_is_not_used(shop_of_one):
    settings, *_ = shop_of_one
    first = finished(shop_of_one)
    for name in ("ours", "core", "markov"):
        first.save("temporal/all", name, [Ranked(name, {})])

    def kept(**changes):
        return {n for n in ("ours", "core", "markov") if finished(shop_of_one, **changes).load("temporal/all", n)}

    assert kept() == {"ours", "core", "markov"}
    assert kept(ours=("adapter", "2")) == {"core", "markov"}
    embeddings = settings.item_embeddings.model_copy(update={"dim": 8})
    assert kept(item_embeddings=embeddings) == {"markov"}
    generation = settings.generation.model_copy(update={"beams": 2})
    assert kept(generation=generation) == {"core", "markov"}
    more = settings.evaluation.model_copy(update={"more_systems": ["sasrec"], "resamples": 7})
    assert kept(evaluation=more) == {"ours", "core", "markov"}, "which systems there are changes none of them"
    assert kept(evaluation=settings.evaluation.model_copy(update={"users": 7})) == set()
    code = {"tokenizer": "t", "item_id": "i", "ordinal": 0, "code": [1], "text": "a"}
    shop_of_one[1].publish("item_codes", pa.Table.from_pylist([code], TABLES["item_codes"].schema))
    assert kept() == set(), "other tables"


def test_other_code_makes_other_results(shop_of_one, monkeypatch):
    import ml.comparison.finished as module

    finished(shop_of_one).save("temporal/all", "core", [Ranked("core", {})])
    monkeypatch.setattr(module, "code_fingerprint", lambda: "another")
    assert finished(shop_of_one).load("temporal/all", "core") is None
