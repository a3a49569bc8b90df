"""A fit in Dagster: a worse model is recorded and does not serve, its index follows, and a store that fails is seen."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from model_registries import failing, new_registry

from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse
from pipelines.build import build_definitions

SCOPE = "Hats"
CORE = ["item_embeddings", "id_index"]
SOUND = {"epochs": 12, "dim": 16, "layers": 1, "learning_rate": 1e-2, "batch_size": 32, "patience": 12}
POOR = SOUND | {"epochs": 1, "learning_rate": 1e-9}


pytestmark = pytest.mark.usefixtures("one_thread")


def example(number, split, generator):
    """A customer who clicks on some of the six items of a style and buys another of them."""
    style = 6 * int(generator.integers(8))
    items = [f"item-{style + place:02}" for place in generator.permutation(6)[:4]]
    time = datetime(2026, 3, 2 if split == "train" else 3, tzinfo=UTC) + timedelta(minutes=number)
    steps = [
        {"event_time": time - timedelta(minutes=9 - place), "event_id": f"{number}-{place}", "action": "click",
         "item_id": item, "query": None, "position": None}
        for place, item in enumerate(items[:3])
    ]  # fmt: skip
    return {
        "example_id": f"e{number:04}", "user_id": f"u{number:04}", "target_item": items[3], "target_time": time,
        "target_date": time.date(), "query": None, "target_query": None, "steps": steps, "night_clicks": [],
        "item_steps": 3, "eligible": True, "temporal_split": split, "leave_one_out_split": "train",
    }  # fmt: skip


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    """Sequences of one category."""
    generator = np.random.default_rng(0)
    rows = [example(n, "train" if n < 300 else "validation", generator) for n in range(360)]
    made = Warehouse(tmp_path_factory.mktemp("warehouse"))
    made.publish("training_sequences", pa.Table.from_pylist(rows, TABLES["training_sequences"].schema), category=SCOPE)
    return made


@pytest.fixture
def fit(warehouse, tmp_path):
    """Fit CORE and its index in Dagster; return the run's result and what it showed of each asset."""
    registry = new_registry(tmp_path)

    def run(**core):
        settings = Settings(
            home=tmp_path / "home", warehouse=warehouse.root, categories=[SCOPE], min_train_examples=1,
            item_embeddings=core,
        )  # fmt: skip
        job = build_definitions(settings, {"registry": registry}).resolve_job_def("fit")
        config = {name: {"config": {"as_of": date(2026, 3, 3).isoformat()}} for name in CORE}
        with dg.DagsterInstance.ephemeral() as instance:
            result = job.execute_in_process(
                instance=instance, partition_key=SCOPE, asset_selection=[dg.AssetKey(name) for name in CORE],
                run_config={"ops": config, "loggers": {"console": {}}}, raise_on_error=False,
            )  # fmt: skip
        made = [event.materialization for event in result.get_asset_materialization_events()]
        return result, {
            m.asset_key.to_user_string(): {name: value.value for name, value in m.metadata.items()} for m in made
        }

    run.registry = registry
    return run


def used(fit):
    return [fit.registry.used_version(kind, SCOPE) for kind in CORE]


def test_a_better_model_comes_with_its_index_and_a_worse_one_is_recorded_and_does_not_serve(fit):
    first, shown = fit(**POOR)
    assert first.success and shown["item_embeddings"]["promotion_reason"] == "no champion"
    assert shown["id_index"]["promotion_reason"] == "follows item_embeddings 1" and used(fit) == ["1", "1"]

    better, shown = fit(**SOUND)
    assert better.success and shown["item_embeddings"]["promotion"] == "promoted"
    assert shown["id_index"]["promotion_reason"] == "follows item_embeddings 2" and used(fit) == ["2", "2"]
    assert fit.registry.champion("id_index", SCOPE).tags["item_embeddings_version"] == "2"

    worse, shown = fit(**POOR | {"seed": 1})
    assert worse.success, "a worse model is no failure"
    core = shown["item_embeddings"]
    assert core["version"] == "3" and core["promotion"] == "refused" and "NDCG@10" in core["promotion_reason"]
    assert core["promotion_low"] < -core["promotion_margin"] == -0.02 and core["promotion_examples"] == 60
    assert shown["id_index"]["promotion"] == "unchanged" and used(fit) == ["2", "2"]
    version = fit.registry.version("item_embeddings", SCOPE, "3")
    run = fit.registry.client.get_run(version.run_id)
    assert version.tags["promotion_reason"] == run.data.tags["promotion_reason"] == core["promotion_reason"]
    assert run.data.metrics["promotion_champion"] == pytest.approx(core["promotion_champion"])


def test_the_same_fit_again_changes_nothing(fit):
    fit(**SOUND)
    again, shown = fit(**SOUND)
    assert again.success and [shown[name]["promotion"] for name in CORE] == ["unchanged"] * 2
    assert used(fit) == ["1", "1"]


def test_a_training_that_diverges_fails_its_run_and_leaves_the_champion(fit):
    fit(**SOUND)
    diverged, shown = fit(**SOUND | {"learning_rate": 1e38})
    assert not diverged.success and shown == {}
    assert used(fit) == ["1", "1"]


def test_mlflow_failing_in_a_promotion_is_a_failed_run_beside_the_old_champion_and_a_rerun_mends_it(fit):
    fit(**POOR)
    with failing(fit.registry, "registered_model_aliases"):
        failed, shown = fit(**SOUND)
    assert not failed.success and shown == {} and used(fit) == ["1", "1"]
    run_id = fit.registry.versions("item_embeddings", SCOPE)[0].run_id
    assert fit.registry.client.get_run(run_id).info.status == "FAILED"
    mended, shown = fit(**SOUND)
    assert mended.success and used(fit) == ["3", "2"]
    assert fit.registry.champion("id_index", SCOPE).tags["item_embeddings_version"] == "3"
