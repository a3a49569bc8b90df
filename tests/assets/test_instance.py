"""What people see in Dagster and MLflow after the small shop's nights: runs, rows, schemas, and nobody's name."""

import dagster as dg
import pytest
from small_shop import CATEGORIES, EVE, LAST

from assets import all_assets
from ml.health import SIGNS
from ml.tables import TABLES
from pipelines.jobs import EXPERIMENT
from pipelines.resources import model_registry
from pipelines.run import Runner

NO_TABLE = {"base_model", "adapter", "title_encoder", "title_index", "item_embeddings", "id_index", "ranker"}


@pytest.fixture(scope="module")
def materializations(shop):
    """Every materialization of every asset."""
    keys = [key for asset in all_assets() for key in asset.keys]
    with Runner(shop.settings).instance() as instance:
        return {
            key.to_user_string(): [r.asset_materialization for r in instance.fetch_materializations(key, 1000).records]
            for key in keys
        }


def test_every_table_shows_rows_time_and_columns_with_their_sentence(materializations):
    assert set(materializations) == set(TABLES) | NO_TABLE
    for name in set(TABLES) - set(EXPERIMENT):  # those are run in tests/pipelines/test_experiments.py
        made = [m for m in materializations[name] if "note" not in m.metadata]
        assert made, name
        for one in made:
            assert one.metadata["dagster/row_count"].value >= 0 and one.metadata["seconds"].value >= 0
            columns = one.metadata["dagster/column_schema"].value.columns
            assert [c.name for c in columns] == TABLES[name].names
            assert all(c.description for c in columns)
    assert {m.partition for m in materializations["recommendations"]} == {EVE, LAST}
    assert {m.partition for m in materializations["training_sequences"]} == set(CATEGORIES)
    assert {m.partition for m in materializations["adapter"]} == {"Clothing", "all"}


def test_row_counts_are_those_of_the_tables(shop, materializations):
    newest = {m.partition: m for m in reversed(materializations["recommendations"])}
    for day in (EVE, LAST):
        rows = sum(len(shop.rows("recommendations", date=day, category=c)) for c in CATEGORIES)
        assert newest[day].metadata["dagster/row_count"].value == rows


def test_no_customer_is_named_in_any_metadata(shop, materializations):
    users = {row["user_id"] for row in shop.rows("user_histories", date=LAST)}
    assert len(users) >= 40
    shown = [
        str(value.value if not isinstance(value, dg.TableSchemaMetadataValue) else "")
        for made in materializations.values() for one in made for value in one.metadata.values()
    ]  # fmt: skip
    text = "\n".join(shown)
    assert "| item_id |" in text, "previews are there"
    assert not [user for user in users if user in text]


def test_every_run_succeeded_and_all_checks_passed(shop):
    with Runner(shop.settings).instance() as instance:
        runs = instance.get_runs()
        assert {run.job_name for run in runs} == {"ingest", "prepare", "sequences", "fit", "nightly", "evaluate"}
        assert all(run.is_success for run in runs)
        checks = [
            entry.event_specific_data
            for run in runs for entry in
            (e.dagster_event for e in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION))
        ]  # fmt: skip
    assert {check.check_name for check in checks} == {
        "lists_keep_their_promises", "every_active_customer_has_a_list", "events_belong_to_their_day",
        "every_item_has_its_own_code", "no_step_from_the_future", *SIGNS,
    }  # fmt: skip
    assert [c.check_name for c in checks if not c.passed] == []


def test_champions_name_the_run_the_day_and_the_code_that_made_them(shop):
    registry = model_registry(shop.settings)
    with Runner(shop.settings).instance() as instance:
        known = {run.run_id for run in instance.get_runs()}
    for scope in ("Clothing", "all"):
        for kind in ("adapter", "title_encoder", "title_index", "item_embeddings", "id_index", "ranker"):
            champion = registry.champion(kind, scope)
            assert champion is not None, (kind, scope)
            assert champion.tags["dagster_run_id"] in known and champion.tags["code_version"]
            assert champion.as_of and champion.fitted_until and champion.fitted_until <= champion.as_of
            assert not [f for f in champion.folder.rglob("*") if f.suffix in {".bin", ".pt", ".pkl"}]
    for scope in ("Footwear", "Bags", "Gifts"):
        assert registry.champion("adapter", scope) is None, "served by the pooled models"


SHOWN = {
    "interactions": ["events_per_day"],
    "catalog": ["items_per_category", "listing"],
    "training_sequences": ["table_1"],
    "query_memory": ["products_per_query"],
    "title_index": ["recall_at_10", "kind"],
    "id_index": ["recall_at_10", "kind"],
    "item_embeddings": ["validation"],
    "ranker": ["questions", "answer_gain_ndcg", "uses_answers"],
    "generations": ["users_per_second", "failed_closed", "unchanged", "log_probabilities"],
    "recommendations": ["customers_language_model", "customers_by_source"],
    "realised": ["Clothing/recall", "recall_by_day"],
    "evaluation_metrics": ["metrics"],
}


@pytest.mark.parametrize("asset", SHOWN)
def test_an_asset_shows_what_people_ask_of_it(materializations, asset):
    newest = next(m for m in materializations[asset] if "note" not in m.metadata)
    missing = [name for name in SHOWN[asset] if name not in newest.metadata]
    assert not missing, sorted(newest.metadata)
    for name in SHOWN[asset]:
        value = newest.metadata[name]
        if isinstance(value, dg.MarkdownMetadataValue) and name != "table_1":
            assert value.md_str.startswith("![plot](data:image/png;base64,"), name


def test_table_1_counts_the_logs_own_examples(shop, materializations):
    shown = next(m for m in materializations["training_sequences"] if m.partition == "Clothing").metadata["table_1"]
    rows = [row for row in shop.rows("training_sequences", category="Clothing") if row["eligible"]]
    assert f"| Clothing | {len({row['user_id'] for row in rows}):,} |" in shown.md_str


def test_mlflow_keeps_curves_examples_and_results(shop):
    registry = model_registry(shop.settings)
    kept = {
        "adapter": {"loss.png", "prompt_perplexity.json", "example_generations.md"},
        "evaluation": {"metrics.png", "metrics.json"},
    }
    for kind, names in kept.items():
        run = registry.client.search_runs([registry.experiment_id], f"tags.kind = '{kind}'")[0]
        assert names <= {file.path for file in registry.client.list_artifacts(run.info.run_id)}
    adapter = registry.client.search_runs([registry.experiment_id], "tags.kind = 'adapter'")[0]
    assert len(registry.client.get_metric_history(adapter.info.run_id, "loss")) > 1, sorted(adapter.data.metrics)
