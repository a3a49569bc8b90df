"""MLflow's real server, away or killed at a point: a sentence, whole tables, and the same when it is back."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import dagster as dg
import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException
from model_registries import empty_store, register

from assets import define
from ml.errors import HemlineError
from ml.models.registry import TrackedRun
from ml.retention import unneeded_versions
from ml.settings import RetentionSettings, Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse
from pipelines.resources import model_registry
from pipelines.run import RunFailedError, Runner

EVE, LAST = "2026-03-15", "2026-03-16"


class Server:
    """`mlflow server` on loopback, with its database and files in a folder."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self.folder, self._process = f"http://127.0.0.1:{self.port}", folder, None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self._process = subprocess.Popen(
            command, cwd=self.folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 180
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError("mlflow server does not answer")

    def kill(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that runs; starting one takes ten seconds."""
    server = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(empty_store(), server.folder / "mlflow.db")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Clients that ask twice, and steps that are soon tried again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setattr(define, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def settings(server, tmp_path):
    """A shop whose lists of one night met a purchase on the next day."""
    settings = Settings(
        warehouse=tmp_path / "warehouse", home=tmp_path / "home", tracking_uri=server.uri, start_date=EVE
    )
    warehouse = Warehouse(settings.warehouse)
    for table, day, values in (
        ("recommendations", EVE, {"rank": 1, "score": 1.0, "model_from_future": False, "source": "popular"}),
        ("interactions", LAST, {"event_time": 0, "action": "purchase", "category": "Clothing"}),
    ):
        schema = TABLES[table].schema
        row = {name: None if schema.field(name).nullable else "hat" for name in schema.names} | {"item_id": "hat"}
        level = {"category": "Clothing"} if "category" in TABLES[table].levels else {}
        warehouse.publish(table, pa.Table.from_pylist([row | values], schema), date=day, **level)
    return settings


def run(settings, asset):
    """Run the last night's `asset` alone."""
    runner = Runner(settings)
    job = dg.define_asset_job("part", dg.AssetSelection.assets(asset))
    runner.definitions = dg.Definitions.merge(runner.definitions, dg.Definitions(jobs=[job]))
    return runner.run("part", LAST)


@contextmanager
def after(monkeypatch, owner, name, act):
    """Call `act` once a call of a function of ours is through."""
    call = getattr(owner, name)

    def acting(*arguments, **named):
        done = call(*arguments, **named)
        act()
        return done

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, acting)
        yield


def published(settings):
    return {str(p): p.stat().st_mtime_ns for p in sorted(settings.warehouse.glob("[!_]*/**/*.parquet"))}


def files_on(server):
    """The files of models that lie on the server."""
    return list(server.folder.rglob("model.safetensors"))


def test_without_its_server_a_night_fails_in_words_before_or_after_a_table_and_goes_on_later(
    server, settings, monkeypatch
):
    gone = rf"(?s)MlflowException.*{server.port}.*tried 5 times in vain.*published before is as it was.*run again"
    before = published(settings)
    with after(monkeypatch, Warehouse, "publish", server.kill), pytest.raises(RunFailedError, match=gone):
        run(settings, "realised")  # it is published, and then told to MLflow
    made = published(settings)
    assert len(made) == len(before) + 1 and {name: made[name] for name in before} == before
    rows = Warehouse(settings.warehouse).read("realised", date=LAST).to_pylist()
    assert {row["value"] for row in rows} == {1.0}, "whole"
    for asset in ("generations", "recommendations"):
        with pytest.raises(RunFailedError, match=gone):
            run(settings, asset)
    assert published(settings) == made, "without its models a night makes no list and changes none"

    server.start()
    run(settings, "realised")
    assert published(settings) == made, "the same rows, and nothing is written again"
    registry = model_registry(settings)
    (tracked,) = registry.client.search_runs([registry.experiment_id], "tags.kind = 'realised'")
    assert tracked.info.status == "FINISHED"


def test_a_server_killed_in_a_registration_leaves_the_champion_and_removal_reaches_its_files(
    server, settings, monkeypatch, tmp_path
):
    registry = model_registry(settings)
    registry.promote(register(registry, tmp_path / "first", [1.0]))
    files_before = len(files_on(server))
    with after(monkeypatch, TrackedRun, "_ensure_model", server.kill), pytest.raises(MlflowException):
        register(registry, tmp_path / "second", [2.0])
    assert len(files_on(server)) == files_before + 1, "files come first: no version is ever without them"
    server.start()
    assert registry.used_version("item_embeddings", "Clothing") == "1"
    assert len(registry.versions("item_embeddings", "Clothing")) == 1
    for number in (2.0, 3.0):
        registry.promote(register(registry, tmp_path / f"again {number}", [number]))
    (one,) = unneeded_versions(registry, RetentionSettings(champions=2), {}, time.time() + 365 * 86_400)
    files = len(files_on(server))
    one.remove()
    assert "item_embeddings 1" in one.what and one.bytes is None
    assert len(files_on(server)) == files - 1
    with pytest.raises(HemlineError, match="version 1 were removed on"):
        registry.version("item_embeddings", "Clothing", "1")
    assert registry.champion("item_embeddings", "Clothing").version == "3"
    assert unneeded_versions(registry, RetentionSettings(champions=2), {}, time.time() + 365 * 86_400) == []
