"""Serves Dagster's UI with its daemon, and MLflow's, on loopback, on the instance the command line writes to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from ml.errors import HemlineError
from ml.secrets import redact
from ml.settings import Settings
from pipelines.resources import tracking_uri
from pipelines.run import dagster_home

HOST = "127.0.0.1"
WORKSPACE = Path(__file__).parents[1] / "workspace.yaml"


def serve(console: Console, settings: Settings, port: int, mlflow_port: int) -> None:
    """Run the three servers until interrupted; if one ends, the others are ended too."""
    home = dagster_home(settings)
    programs = Path(sys.executable).parent
    environment = {**os.environ, "DAGSTER_HOME": str(home), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    location = ["-w", str(WORKSPACE)]
    commands = {
        "Dagster": [str(programs / "dagster-webserver"), "-h", HOST, "-p", str(port), *location],
        "Dagster's daemon": [str(programs / "dagster-daemon"), "run", *location],
        "MLflow": [
            str(programs / "mlflow"), "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1",
            "--backend-store-uri", tracking_uri(settings),
        ],
    }  # fmt: skip
    if settings.tracking_uri:  # a server of its own shows those runs already
        del commands["MLflow"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's stop ends the servers too
    servers = {name: subprocess.Popen(command, env=environment) for name, command in commands.items()}
    models = redact(settings.tracking_uri) if settings.tracking_uri else f"http://{HOST}:{mlflow_port}"
    console.print(f"Dagster  http://{HOST}:{port}\nMLflow   {models}")
    console.print("Ctrl+C ends them.")
    try:
        while all(server.poll() is None for server in servers.values()):
            time.sleep(0.5)
        ended = next(name for name, server in servers.items() if server.poll() is not None)
        raise HemlineError(f"{ended} ended by itself; is its port free? (options --port, --mlflow-port)")
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers.values():
            server.send_signal(signal.SIGINT)
        for server in servers.values():
            server.wait(timeout=30)
