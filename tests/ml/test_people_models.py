"""Which champions are named for a forgotten customer, and that none of them outlives its deadline."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from model_registries import TAGS, load_numbers, new_registry, register, save_numbers

from ml.fits.gate import Trial, consider
from ml.people.models import models_due, models_fitted_on
from ml.people.traces import Traces
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

GOOD = np.random.default_rng(0).uniform(0.3, 0.7, 100)
SCOPES = {"Clothing": ["Clothing"], "Footwear": [], "all": ["Footwear", "Bags"]}
"""TAGS say that the models were fitted until 2026-11-18."""


@pytest.fixture
def registry(tmp_path):
    made = new_registry(tmp_path)
    for kind in ("item_embeddings", "title_encoder"):
        for scope in ("Clothing", "all"):
            made.promote(register(made, tmp_path / "fitted", GOOD, kind, scope))
    register(made, tmp_path / "fitted", GOOD + 0.1)  # version 2, not in use
    return made


@pytest.fixture
def warehouse(tmp_path):
    made = Warehouse(tmp_path / "warehouse")
    splits = {"temporal_split": "train", "leave_one_out_split": "train"}
    pair = {"event_id": "e1", "query": "q", "item_id": "i", "title": "t", "date": date(2026, 11, 2), **splits}
    pairs = pa.Table.from_pylist([pair], TABLES["query_title_pairs"].schema)
    made.publish("query_title_pairs", pairs, category="Bags")
    return made


def named(warehouse, registry, traces, days=30):
    return {(one.kind, one.scope): one for one in models_fitted_on(warehouse, registry, SCOPES, traces, days)}


def test_a_champion_is_named_where_its_data_held_the_customer_and_nowhere_else(warehouse, registry):
    assert named(warehouse, registry, Traces(frozenset(["u"]))) == {}
    later = Traces(frozenset(["u"]), purchases={("Clothing", date(2026, 11, 19))})
    assert named(warehouse, registry, later) == {}, "bought after the newest day it was fitted on"
    shopper = Traces(frozenset(["u"]), purchases={("Clothing", date(2026, 11, 18))})
    assert set(named(warehouse, registry, shopper)) == {("item_embeddings", "Clothing")}
    assert registry.tags_of("item_embeddings", "Clothing", "2")["retrain_by"], "a rollback may bring it back"
    searcher = Traces(frozenset(["u"]), events={"e1"}, purchases={("Bags", date(2026, 11, 2))})
    assert set(named(warehouse, registry, searcher)) == {("item_embeddings", "all"), ("title_encoder", "all")}


def test_the_first_deadline_stands_and_is_told_until_another_version_is_in_use(warehouse, registry, tmp_path):
    shopper = Traces(frozenset(["u"]), purchases={("Clothing", date(2026, 11, 18))})
    (first,) = named(warehouse, registry, shopper, 10).values()
    (second,) = named(warehouse, registry, shopper, 30).values()
    assert first == second and date.fromisoformat(first.retrain_by) > date.today()
    assert models_due(registry, list(SCOPES)) == [first]
    registry.promote(register(registry, tmp_path / "fitted", GOOD + 0.1))
    assert models_due(registry, list(SCOPES)) == []


@pytest.mark.parametrize(("left", "promoted"), [(8, False), (7, True), (-3, True)])
def test_before_its_deadline_passes_a_champion_gives_way_to_a_worse_model(registry, tmp_path, left, promoted):
    deadline = date.today() + timedelta(days=left)
    registry.tag("item_embeddings", "Clothing", "1", retrain_by=deadline.isoformat())
    trial = Trial("NDCG@10", 0.02, load_numbers, lambda numbers: numbers)
    with registry.run("item_embeddings", "Clothing", tags=TAGS, params={}) as run:
        version = run.register(save_numbers(tmp_path / "fitted", GOOD - 0.1))
        decision = consider(registry, run, version, trial, Settings())
    assert decision.promoted is promoted
    assert ("customers who are forgotten" in decision.reason) is promoted
