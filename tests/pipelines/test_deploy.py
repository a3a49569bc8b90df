"""`deploy/`: what the files promise, and every command of the compose file started as a process of this machine.

No container engine is needed: a container's addresses, folders and ports become this machine's.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from postgres_server import PASSWORD, free_port, postgres
from rich.console import Console

from ml.errors import BadInputError
from ml.settings import Settings
from pipelines.ui import serve

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
PARTS = ("mlflow", "web", "daemon")
PATIENCE = 200


def test_every_port_is_published_on_loopback_alone():
    published = {name: part["ports"] for name, part in COMPOSE["services"].items() if "ports" in part}
    assert set(published) == {"web", "mlflow"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_no_secret_stands_in_the_files():
    for name, part in COMPOSE["services"].items():
        for key, value in part["environment"].items():
            if "PASSWORD" in key:
                assert re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", value), f"{name}: {key} must come from the environment"
            assert not re.search(r"://[^/@]*:[^/@]*@", value), f"{name}: {key} holds a password"


def test_the_container_file_copies_what_exists_and_all_that_is_installed():
    lines = (ROOT / "deploy" / "Containerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert all((ROOT / source).exists() for source in copied)
    assert {"ml", "assets", "pipelines", "dagster.yaml", "workspace.yaml", "requirements.txt"} <= set(copied)
    (user,) = [line for line in lines if line.startswith("USER ")]
    assert user == "USER hemline", "nothing runs as root"


def test_a_part_that_is_none_or_has_nothing_to_do_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="expected some of web, daemon, mlflow"):
        serve(Console(), Settings(home=tmp_path), 1, 2, "127.0.0.1", ["webb"])
    with pytest.raises(BadInputError, match="kept by the server at http://mlflow:5000"):
        serve(Console(), Settings(home=tmp_path, tracking_uri="http://mlflow:5000"), 1, 2, "127.0.0.1", ["mlflow"])


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The three commands of the compose file as processes, PostgreSQL beside them; where they are reached."""
    folder = tmp_path_factory.mktemp("deploy")
    (folder / "data").mkdir()
    shop = {
        "raw_log": "interactions",
        "catalog": "catalog.parquet",
        "warehouse": "warehouse",
        "start_date": "2026-01-01",
    }
    (folder / "data" / "hemline.yaml").write_text(yaml.safe_dump(shop))
    ports = {"3000": str(free_port()), "5000": str(free_port())}
    with postgres() as server:
        here = {
            "${POSTGRES_PASSWORD:?choose a password for PostgreSQL}": PASSWORD,
            "@postgres:5432": f"@127.0.0.1:{server.port}", "http://mlflow:5000": f"http://127.0.0.1:{ports['5000']}",
            "127.0.0.1:5000": f"127.0.0.1:{ports['5000']}", "0.0.0.0": "127.0.0.1",
            "/data": str(folder / "data"), "/var/lib/hemline": str(folder / "home"),
        }  # fmt: skip

        def placed(text):
            found = re.sub("|".join(map(re.escape, here)), lambda match: here[match[0]], text)
            return ports.get(found, found)

        processes = {}
        for name in PARTS:
            part = COMPOSE["services"][name]
            assert part["command"][0] == "hemline"
            command = [sys.executable, "-m", "pipelines.cli", *map(placed, part["command"][1:])]
            environment = {**os.environ, **{key: placed(value) for key, value in part["environment"].items()}}
            with (folder / f"{name}.log").open("wb") as log:
                processes[name] = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            yield ports, server, folder
            assert {name: process.poll() for name, process in processes.items()} == dict.fromkeys(PARTS)
        finally:
            for process in processes.values():
                process.send_signal(signal.SIGTERM)
            ended = {name: process.wait(timeout=60) for name, process in processes.items()}
        assert ended == dict.fromkeys(PARTS, 0), "each ends when its container is stopped"


def answer(url, body=None, host=None):
    """What a server answers, once it is up."""
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    request, deadline = urllib.request.Request(url, body, headers), time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.read().decode()
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_mlflow_answers_by_its_name_in_the_network_and_no_other(running):
    ports, server, _ = running
    address = f"http://127.0.0.1:{ports['5000']}/api/2.0/mlflow/registered-models/search"
    assert json.loads(answer(address, host="mlflow:5000")) == {}
    with pytest.raises(urllib.error.HTTPError, match="403"):
        answer(address, host="evil.example")
    assert server.query("mlflow", "SELECT count(*) FROM experiments")[0][0] >= 1


def test_the_web_server_shows_the_assets(running):
    ports, _, _ = running
    query = json.dumps({"query": "{assetNodes{assetKey{path}}}"}).encode()
    found = json.loads(answer(f"http://127.0.0.1:{ports['3000']}/graphql", query))["data"]["assetNodes"]
    assert {"interactions", "adapter", "recommendations"} <= {node["assetKey"]["path"][0] for node in found}


def test_the_daemon_is_at_work_on_the_same_storage(running):
    _, server, folder = running
    deadline, beats = time.monotonic() + PATIENCE, []
    while not {"SCHEDULER", "SENSOR", "QUEUED_RUN_COORDINATOR"} <= {kind for (kind,) in beats}:
        assert time.monotonic() < deadline, (folder / "daemon.log").read_text()[-2000:]
        time.sleep(0.5)
        try:
            beats = server.query("dagster", "SELECT daemon_type FROM daemon_heartbeats")
        except Exception as error:  # the table is made by whoever starts first
            assert "does not exist" in str(error)
    assert not list((folder / "home").rglob("*.db"))
    for log in folder.glob("*.log"):
        assert PASSWORD not in log.read_text()
