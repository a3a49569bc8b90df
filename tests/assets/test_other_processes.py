"""Settings that take a stage's work to other processes, through Dagster's assets: trainers, and Spark's executors."""

import shutil

import dagster as dg
import pytest
from small_shop import AS_OF, EVE

from ml.language_model import launching
from pipelines import flows
from pipelines.resources import model_registry
from pipelines.run import Runner

LISTED = ("Clothing", "Footwear", "Bags")


def run(shop, assets, partition, config=None):
    """Run these assets alone."""
    runner = Runner(shop.settings)
    job = dg.define_asset_job("part", dg.AssetSelection.assets(*assets))
    runner.definitions = dg.Definitions.merge(runner.definitions, dg.Definitions(jobs=[job]))
    return runner.run("part", partition, config)


def section(shop, name, **values):
    """A section of the shop's settings with some of its values changed."""
    return {name: getattr(shop.settings, name).model_dump(mode="json") | values}


def test_a_nights_answers_by_executors_are_those_of_one_process(eve_shop, tmp_path, monkeypatch):
    shop = eve_shop.copy(tmp_path / "shop").change(**section(eve_shop, "generation", executors="spark"))
    before = {category: shop.rows("generations", date=EVE, category=category) for category in LISTED}
    shop.warehouse.remove("generations", date=EVE)
    chunks = shop.settings.work_folder / "generations"
    shutil.rmtree(chunks)

    def here(*_, **__):
        raise AssertionError("answered in this process")

    monkeypatch.setattr("ml.generation.generate_in_chunks", here)
    run(shop, ["generations"], EVE)
    for category, rows in before.items():
        made = {row["user_id"]: row for row in shop.rows("generations", date=EVE, category=category)}
        assert set(made) == {row["user_id"] for row in rows}
        for row in rows:
            one = made[row["user_id"]]
            same = ("item_id", "title", "parsed", "prompt_hash", "model_version", "generated_on")
            assert [one[name] for name in same] == [row[name] for name in same]
            assert one["log_probability"] == pytest.approx(row["log_probability"], rel=1e-4)
    assert list(chunks.rglob("*.parquet")), "kept for a rerun, where the driver finds them"


def test_an_adapter_fitted_by_two_processes_is_registered_and_judged(eve_shop, tmp_path, monkeypatch):
    one = eve_shop.settings.language_model
    shop = eve_shop.copy(tmp_path / "shop")
    shop.change(**section(shop, "language_model", processes=2, batch_size=one.batch_size // 2))
    launched, launch = [], launching._launched

    def noted(folder, processes):
        launched.append(processes)
        return launch(folder, processes)

    monkeypatch.setattr(launching, "_launched", noted)
    config = {"adapter": flows.as_of_config("fit", AS_OF)["adapter"]}
    run(shop, ["adapter", "prompt_perplexity"], "Clothing", config)
    assert launched == [2]
    registry = model_registry(shop.settings)
    newest, first = registry.versions("adapter", "Clothing")
    assert newest.tags["promotion"] in ("promoted", "refused") and newest.tags["promotion_reason"]
    losses = [
        {point.step: point.value for point in registry.client.get_metric_history(version.run_id, "loss")}
        for version in (first, newest)
    ]
    assert len(losses[1]) > 1 and set(losses[0]) == set(losses[1]), "as many steps: the batch is the same"
    step = min(losses[0])
    assert losses[1][step] == pytest.approx(losses[0][step], rel=1e-3), "before the first update nothing differs"
