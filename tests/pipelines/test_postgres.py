"""Dagster and MLflow on a real PostgreSQL server: a job, a model registered and rolled back, no password anywhere."""

import pytest
from log_shop import make_log_shop
from model_registries import register
from postgres_server import PASSWORD, postgres
from small_shop import LAST

from ml.errors import BadInputError
from pipelines import flows
from pipelines.models import roll_back, table_run
from pipelines.resources import model_registry
from pipelines.run import POSTGRES_VARIABLE, Runner, dagster_home


@pytest.fixture(scope="module")
def server():
    with postgres() as running:
        yield running


@pytest.fixture(scope="module")
def shop(spark, server, tmp_path_factory):
    """A small shop whose last day is ingested on the server."""
    folder = tmp_path_factory.mktemp("postgres") / "shop"
    made = make_log_shop(folder, dagster_storage="postgres", tracking_uri=server.url("mlflow"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PGPASSWORD", PASSWORD)
        environment.setenv(POSTGRES_VARIABLE, server.url("dagster"))
        flows.ingest(Runner(made.settings), LAST)
        yield made


def test_a_job_runs_and_is_recorded_on_the_server(shop, server):
    assert shop.warehouse.days("interactions") == [LAST]
    assert server.query("dagster", "SELECT pipeline_name, status FROM runs") == [("ingest", "SUCCESS")]
    events = "SELECT asset_key, partition FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
    assert ('["interactions"]', LAST) in server.query("dagster", events)
    assert not list((shop.folder / ".hemline").rglob("*.db")), "nothing is kept in SQLite"
    assert table_run(shop.settings, LAST) is None  # read back through the same storage: no night was made


def test_a_model_is_registered_promoted_and_rolled_back(shop, server, tmp_path):
    registry = model_registry(shop.settings)
    first, second = (register(registry, tmp_path / str(n), [n], "item_embeddings", "Clothing") for n in (1, 2))
    registry.promote(first)
    registry.promote(second)
    (done,) = roll_back(shop.settings, "item_embeddings", ["Clothing"])
    assert (done.before, done.after) == (second.version, first.version)
    aliases = server.query("mlflow", "SELECT alias, version FROM registered_model_aliases")
    assert aliases == [("champion", int(first.version))]
    assert not list((shop.folder / ".hemline").rglob("*.db"))


def test_the_password_is_in_no_file_and_no_setting(shop):
    dagster_home(shop.settings)  # a second time changes nothing
    text = (shop.folder / ".hemline" / "dagster" / "dagster.yaml").read_text()
    assert text.count("storage:") == 1 and POSTGRES_VARIABLE in text
    for path in shop.folder.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


def test_what_is_missing_is_said(shop, monkeypatch):
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://u:p@h/d")
    with pytest.raises(BadInputError, match=r"DAGSTER_POSTGRES_URL, as postgresql\+psycopg2://"):
        dagster_home(shop.settings)
    monkeypatch.delenv(POSTGRES_VARIABLE)
    with pytest.raises(BadInputError, match="DAGSTER_POSTGRES_URL"):
        Runner(shop.settings).run("ingest", LAST)
