"""Dagster and MLflow on a real PostgreSQL server: a job, a model rolled back, a customer forgotten, no password."""

import time

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo
from log_shop import make_log_shop
from model_registries import register
from people_scan import findings, server_findings
from people_shop import CANARY, made
from postgres_server import PASSWORD, postgres
from rich.console import Console
from small_shop import LAST

from ml.errors import BadInputError, HemlineError
from ml.people import databases
from ml.settings import Settings
from ml.warehouse import Warehouse
from pipelines import flows
from pipelines.models import roll_back, table_run
from pipelines.people import forget_customers
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
    own = make_log_shop(folder, dagster_storage="postgres", tracking_uri=server.url("mlflow"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PGPASSWORD", PASSWORD)
        environment.setenv(POSTGRES_VARIABLE, server.url("dagster"))
        flows.ingest(Runner(own.settings), LAST)
        yield own


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


@dg.op
def misread(_):
    """Fail with the customer in the error, as code that shows a bad row does."""
    raise ValueError(f"row of {CANARY} is odd")


@dg.job
def odd_night():
    """A job that fails."""
    misread()


def leave_traces(settings):
    """Let the canary stand in everything that Dagster and MLflow write words into."""
    error = SerializableErrorInfo(f"event of {CANARY}\n", [f"  at {CANARY}\n"], "ValueError")
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        assert not odd_night.execute_in_process(instance=instance, raise_on_error=False).success
        preview = {"rows": dg.MetadataValue.md(f"| {CANARY} |{'.' * 700}")}
        for _ in range(30):  # pages full of them: a row's new version does not lie over its old one
            instance.report_runless_asset_event(dg.AssetMaterialization("recommendations", metadata=preview))
        failed = TickData("o", "late_data", InstigatorType.SENSOR, TickStatus.FAILURE, time.time(), error=error)
        instance.create_tick(failed)
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "d", [error]))
    registry = model_registry(settings)
    with pytest.raises(ValueError), registry.run("ranker", "Hats", tags={}, params={}):
        raise ValueError(f"example of {CANARY} is odd")
    return registry


def on_server(server):
    """Where the canary is: tables of both databases, and the files that all of them lie in."""
    found = {name: server_findings(lambda sql, name=name: server.query(name, sql), [CANARY])
             for name in ("dagster", "mlflow")}  # fmt: skip
    return found, [
        path for path in server.files().rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ]


def test_a_forgotten_customer_is_in_no_table_no_statistic_and_no_file_of_the_server(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv(POSTGRES_VARIABLE, server.url("dagster"))
    settings = Settings(home=tmp_path, warehouse=tmp_path / "warehouse", report=tmp_path / "report",
                        categories=["Hats"], dagster_storage="postgres", tracking_uri=server.url("mlflow"))  # fmt: skip
    at_once = Warehouse(settings.warehouse, grace_seconds=0)
    made(tmp_path, at_once, leave_traces(settings))
    for name in ("dagster", "mlflow"):
        server.query(name, "ANALYZE")
    tables, files = on_server(server)
    assert {"event_logs", "asset_keys", "job_ticks", "daemon_heartbeats"} <= set(tables["dagster"])
    assert {"tags", "pg_stats"} <= set(tables["mlflow"]) and files

    done = forget_customers(settings, [CANARY], Console(quiet=True), at_once)
    assert done.removed["dagster records"] >= 4 and done.removed["mlflow tags"] == 1
    assert on_server(server) == ({"dagster": {}, "mlflow": {}}, [])
    assert findings(tmp_path, [CANARY]) == {}
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        run = instance.get_runs(limit=1)[0]
        assert any("row of [forgotten] is odd" in str(entry.dagster_event) for entry in instance.all_logs(run.run_id))
        assert instance.get_daemon_heartbeats()["SENSOR"].errors

    monkeypatch.setattr(databases, "_BUSY_SECONDS", 1)
    engine = sa.create_engine(server.url("mlflow"))
    with engine.begin() as reader, pytest.raises(HemlineError, match=r"^mlflow: in use"):
        reader.execute(sa.text("SELECT count(*) FROM tags"))
        forget_customers(settings, [CANARY], Console(quiet=True), at_once)
    engine.dispose()
