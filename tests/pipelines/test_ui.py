"""`hemline ui`: both pages on loopback, on the instance the command line wrote to, and nothing left when it ends."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

PATIENCE = 120


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answer(url, body=None):
    """What a server answers, once it is up."""
    deadline = time.monotonic() + PATIENCE
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.read().decode()
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.fixture(scope="module")
def pages(eve_shop, tmp_path_factory):
    """The two addresses of a running `hemline ui`."""
    shop = eve_shop.copy(tmp_path_factory.mktemp("ui") / "shop")
    ports = free_port(), free_port()
    command = [sys.executable, "-m", "pipelines.cli", "ui", "--settings", str(shop.file)]
    command += ["--port", str(ports[0]), "--mlflow-port", str(ports[1])]
    server = subprocess.Popen(command)
    try:
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
    for port in ports:
        with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_both_pages_and_the_daemon_listen_on_loopback_alone(pages):
    for page in pages:
        answer(page)
    server = next(child for child in psutil.Process().children() if "pipelines.cli" in child.cmdline())
    family = [server, *server.children(recursive=True)]
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in family for connection in process.net_connections("inet") if connection.status == "LISTEN"
    }  # fmt: skip
    assert {port for _, port in listening} >= {int(page.rpartition(":")[2]) for page in pages}
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::1"}, listening


def test_dagster_shows_the_assets_and_what_the_command_line_ran(pages):
    query = {"query": "{assetNodes{assetKey{path}} runsOrError{... on Runs{results{jobName status}}}}"}
    found = json.loads(answer(f"{pages[0]}/graphql", json.dumps(query).encode()))["data"]
    assets = {node["assetKey"]["path"][0] for node in found["assetNodes"]}
    assert {"interactions", "adapter", "recommendations", "evaluation_metrics"} <= assets
    runs = {(run["jobName"], run["status"]) for run in found["runsOrError"]["results"]}
    assert {("fit", "SUCCESS"), ("nightly", "SUCCESS")} <= runs


def test_mlflow_shows_the_models(pages):
    address = f"{pages[1]}/api/2.0/mlflow/registered-models/search"
    names = {model["name"] for model in json.loads(answer(address))["registered_models"]}
    assert "hemline-adapter-Clothing" in names and "hemline-item_embeddings-all" in names
