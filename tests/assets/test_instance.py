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
