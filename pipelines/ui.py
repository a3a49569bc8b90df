"""Serves Dagster's UI with its daemon, and MLflow's, on the instance the command line writes to; on loopback.

`deploy/compose.yaml` runs each of them in a container of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ml.errors import BadInputError, HemlineError
from ml.secrets import redact
from ml.settings import Settings
from pipelines.resources import tracking_uri
from pipelines.run import dagster_home

PARTS = {"web": "Dagster", "daemon": "Dagster's daemon", "mlflow": "MLflow"}
"""The servers by the names of the option --only."""
WORKSPACE = Path(__file__).parents[1] / "workspace.yaml"


def serve(
    console: Console, settings: Settings, port: int, mlflow_port: int, host: str, only: Sequence[str] = ()
) -> None:
    """Run the servers (`only` some of `PARTS`) until interrupted; if one ends, the others are ended too."""
    home = dagster_home(settings)
    commands = _commands(settings, port, mlflow_port, host, only)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(settings),
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's stop ends the servers too
    servers = {name: subprocess.Popen(command, env=environment) for name, command in commands.items()}
    if "web" in commands:
        console.print(f"Dagster  http://{host}:{port}")
    if not only or "mlflow" in commands:
        models = f"http://{host}:{mlflow_port}" if "mlflow" in commands else redact(settings.tracking_uri or "")
        console.print(f"MLflow   {models}", markup=False)
    console.print("Ctrl+C ends them.")
    try:
        while all(server.poll() is None for server in servers.values()):
            time.sleep(0.5)
        ended = next(name for name, server in servers.items() if server.poll() is not None)
        raise HemlineError(f"{PARTS[ended]} ended by itself; is its port free? (options --port, --mlflow-port)")
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers.values():
            server.send_signal(signal.SIGINT)
        for server in servers.values():
            server.wait(timeout=30)


def _commands(settings: Settings, port: int, mlflow_port: int, host: str, only: Sequence[str]) -> dict[str, list[str]]:
    unknown = sorted(set(only) - set(PARTS))
    if unknown:
        raise BadInputError(f"--only {unknown[0]!r}: expected some of {', '.join(PARTS)}")
    programs = Path(sys.executable).parent
    location = ["-w", str(WORKSPACE)]
    artifacts = (settings.home / "mlflow-artifacts").as_uri()
    commands = {
        "web": [str(programs / "dagster-webserver"), "-h", host, "-p", str(port), *location],
        "daemon": [str(programs / "dagster-daemon"), "run", *location],
        "mlflow": [
            str(programs / "mlflow"), "server", "--host", host, "--port", str(mlflow_port), "--workers", "1",
            "--artifacts-destination", artifacts,
        ],
    }  # fmt: skip
    if (settings.tracking_uri or "").startswith("http"):  # a server of its own shows those runs already
        del commands["mlflow"]
    if only:
        commands = {name: command for name, command in commands.items() if name in only}
    if not commands:
        raise BadInputError(
            f"--only mlflow: runs are kept by the server at {settings.tracking_uri}, there is none to start"
        )
    return commands
