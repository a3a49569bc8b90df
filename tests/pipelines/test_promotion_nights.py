"""The gate, the way back and the lineage in the small shop's real runs: every kind of model, and the next night."""

import dagster as dg
import pytest
from small_shop import EVE, LAST
from test_cli import hemline, own_environment  # noqa: F401  (a fixture)

from pipelines import flows
from pipelines.resources import model_registry
from pipelines.run import Runner

METRICS = {"adapter": "log-likelihood of a response token", "title_encoder": "recall@10", "ranker": "NDCG@10"}


def test_every_kind_is_compared_with_its_champion_and_an_index_follows_its_model(eve_shop, tmp_path):
    shop = eve_shop.copy(tmp_path / "fitted").change(
        language_model={**eve_shop.settings.language_model.model_dump(mode="json"), "learning_rate": 2e-3},
        title_encoder={**eve_shop.settings.title_encoder.model_dump(mode="json"), "epochs": 3},
        recommendations={"ranker": {"min_examples": 3, "answered": 4, "epochs": 6}},
    )
    runner = Runner(shop.settings)
    with runner.instance() as instance:
        result = runner.definitions.resolve_job_def("fit").execute_in_process(
            instance=instance, partition_key="Clothing", run_config={"loggers": {"console": {}}},
            asset_selection=[dg.AssetKey(name) for name in (*METRICS, "title_index", "prompt_perplexity")],
        )  # fmt: skip
    made = [event.materialization for event in result.get_asset_materialization_events()]
    shown = {one.asset_key.to_user_string(): one.metadata for one in made}
    registry = model_registry(shop.settings)
    for kind, metric in METRICS.items():
        reason = shown[kind]["promotion_reason"].value
        assert reason.startswith(metric) and "of the champion on" in reason, reason
        used = "2" if shown[kind]["promotion"].value == "promoted" else "1"
        assert registry.used_version(kind, "Clothing") == used
    encoder, index = (registry.champion(kind, "Clothing") for kind in ("title_encoder", "title_index"))
    assert index.tags["title_encoder_version"] == encoder.version


@pytest.fixture(scope="module")
def rolled_back(eve_shop, tmp_path_factory):
    """The small shop whose first night was made by a second adapter of Clothing, which was rolled back before the last.

    Lists are joined by the mixup: the language model answers the same customers whatever a ranker thinks of it.
    """
    shop = eve_shop.copy(tmp_path_factory.mktemp("rolled") / "back").change(recommendations={"order": "mixup"})
    registry = model_registry(shop.settings)
    first = registry.champion("adapter", "Clothing")
    tags = {name: first.tags[name] for name in ("as_of", "fitted_until", "dagster_run_id", "code_version")}
    with registry.run("adapter", "Clothing", tags=tags, params={}) as run:
        second = run.register(first.folder, base_folder=first.tags["base_folder"])
    registry.promote(second)
    flows.nightly(Runner(shop.settings), EVE)
    return shop


@pytest.fixture(scope="module")
def night_after(rolled_back):
    """The same shop after `hemline rollback` and the next night, and what the command said."""
    said = hemline("rollback", "adapter", "--category", "Clothing", "--settings", rolled_back.file)
    flows.nightly(Runner(rolled_back.settings), LAST)
    return rolled_back, said


def writers(shop, day, table="recommendations"):
    rows = shop.rows(table, date=day, category="Clothing")
    return {row["model_version"] for row in rows if row.get("source") not in ("retrieval", "popular")}


def test_after_a_rollback_the_next_night_uses_the_earlier_model_and_carries_no_list_of_the_later(night_after):
    shop, said = night_after
    assert "adapter of Clothing: version 2 → 1" in said
    assert writers(shop, EVE) == {"2"} and model_registry(shop.settings).used_version("adapter", "Clothing") == "1"
    assert writers(shop, LAST, "generations") == {"1"} == writers(shop, LAST)
    tags = model_registry(shop.settings).version("adapter", "Clothing", "2").tags
    assert tags["rolled_back_at"] and tags["rolled_back_to"] == "1"


def test_lineage_names_the_run_that_made_the_night_and_the_models_in_use(night_after):
    shop, _ = night_after
    rows = shop.rows("recommendations", date=LAST, category="Clothing")
    user = next(row["user_id"] for row in rows if row["source"] == "language_model")
    said = hemline("lineage", user, LAST, "--category", "Clothing", "--settings", shop.file)
    with Runner(shop.settings).instance() as instance:
        newest = next(run.run_id for run in instance.get_runs() if run.job_name == "nightly")
    assert newest in said and "settings" in said and "not recorded" not in said
    registry = model_registry(shop.settings)
    for kind in ("adapter", "title_encoder", "item_embeddings"):
        assert registry.champion(kind, "Clothing").run_id in said
