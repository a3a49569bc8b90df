"""A comparison whose settings ask no language model needs none; one that asks says what is missing."""

import shutil

import pytest
from model_registries import empty_store

from ml.errors import HemlineError
from pipelines import flows
from pipelines.run import Runner

WITHOUT = {"answered": 0, "epochs": 2, "next_item": "none"}
CHEAP = {"users": 10, "resamples": 50, "splits": ["temporal"], "actions": ["all"]}


@pytest.fixture
def unfitted(eve_shop, tmp_path):
    """The shop with its tables and without a single registered model."""
    shop = eve_shop.copy(tmp_path / "shop")
    shutil.copy(empty_store(), tmp_path / "mlflow.db")
    return shop.change(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


def test_a_comparison_that_asks_nobody_ranks_every_system_without_an_adapter(unfitted):
    unfitted.change(evaluation={**CHEAP, "mixup": False}, recommendations={"ranker": WITHOUT})
    flows.evaluate(Runner(unfitted.settings), ["Clothing"])
    rows = unfitted.rows("evaluation_metrics", category="Clothing")
    assert {row["system"] for row in rows} == {"ours", "popularity", "markov", "item_knn", "core"}


@pytest.mark.parametrize(
    ("evaluation", "recommendations"),
    [({"mixup": True}, {"ranker": WITHOUT}), ({"mixup": False}, {"ranker": {**WITHOUT, "answered": 2}}),
     ({"mixup": False}, {"ranker": WITHOUT, "order": "mixup"})],
)  # fmt: skip
def test_one_that_asks_says_what_is_missing(evaluation, recommendations, unfitted):
    unfitted.change(evaluation={**CHEAP, **evaluation}, recommendations=recommendations)
    with pytest.raises(HemlineError, match="no adapter is promoted for 'Clothing': run `hemline train` first"):
        flows.evaluate(Runner(unfitted.settings), ["Clothing"])
