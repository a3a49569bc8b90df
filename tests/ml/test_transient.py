"""Which errors pass by themselves, told by real clients of real (if small) servers."""

import errno
import socket
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import sqlalchemy as sa

from ml.errors import BadInputError, HemlineError
from ml.models.registry import ModelRegistry
from ml.transient import is_transient


@pytest.fixture
def closed_port():
    """A port nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def answers():
    """A function that starts a server which gives every request one status and body, and returns its port."""
    servers = []

    def start(status, body):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            do_HEAD = do_POST = do_GET

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def raised(call):
    """What a call raises."""
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


@pytest.fixture
def tracking(tmp_path, monkeypatch):
    """What the model registry raises with its server at a port."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")

    def ask(port):
        registry = ModelRegistry(f"http://127.0.0.1:{port}", tmp_path / "artifacts", tmp_path / "cache")
        return raised(lambda: registry.version("adapter", "Hats", "1"))

    return ask


def test_a_tracking_server_that_is_away_passes(tracking, closed_port):
    assert is_transient(tracking(closed_port))


@pytest.mark.parametrize(
    ("status", "body", "passes"),
    [
        (503, "busy", True),
        (500, '{"error_code": "INTERNAL_ERROR", "message": "broken"}', True),
        (503, '{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "later"}', True),
        (429, '{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slower"}', True),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}', False),
        (400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "wrong"}', False),
        (403, "no", False),
    ],
)
def test_what_a_tracking_server_answers_decides(tracking, answers, status, body, passes):
    assert is_transient(tracking(answers(status, body))) is passes


def test_a_tracking_database_that_is_busy_passes_and_one_without_its_tables_does_not(tmp_path):
    registry = ModelRegistry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts", tmp_path / "cache")
    registry.client.create_registered_model("hemline-adapter-Hats")
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert is_transient(raised(lambda: registry.client.create_registered_model("hemline-adapter-Coats")))
    engine = sa.create_engine(f"sqlite:///{tmp_path}/empty.db")
    with engine.connect() as connection:
        assert not is_transient(raised(lambda: connection.execute(sa.text("SELECT * FROM runs"))))


def test_a_postgresql_server_that_is_away_passes(closed_port):
    pytest.importorskip("psycopg2")
    engine = sa.create_engine(f"postgresql+psycopg2://someone:word@127.0.0.1:{closed_port}/runs")
    assert is_transient(raised(engine.connect))


def test_an_object_store_that_is_away_passes_and_a_missing_bucket_does_not(closed_port, answers):
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    def read(port):
        store = S3FileSystem(
            endpoint_override=f"http://127.0.0.1:{port}", access_key="a", secret_key="b", region="us-east-1",
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1), connect_timeout=2, request_timeout=2,
        )  # fmt: skip
        return raised(lambda: store.open_input_file("bucket/key").read())

    assert is_transient(read(closed_port))
    assert is_transient(read(answers(503, "")))
    assert not is_transient(read(answers(404, "")))


@pytest.mark.parametrize(("status", "passes"), [(404, False), (403, False), (429, True), (503, True)])
def test_the_status_that_any_client_keeps_decides(answers, status, passes):
    import urllib.request

    import requests
    from botocore.exceptions import ClientError

    address = f"http://127.0.0.1:{answers(status, 'no')}"
    by_requests = raised(lambda: requests.get(address, timeout=5).raise_for_status())
    by_urllib = raised(lambda: urllib.request.urlopen(address, timeout=5))
    by_botocore = ClientError({"ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")
    assert [is_transient(error) for error in (by_requests, by_urllib, by_botocore)] == [passes] * 3


def test_a_mistake_of_mlflows_client_does_not_pass(tmp_path):
    from mlflow.exceptions import MlflowException

    assert not is_transient(MlflowException("a name is too long"))


def caused(error, cause):
    """An error raised from another."""
    try:
        raise error from cause
    except type(error) as made:
        return made


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EHOSTUNREACH, "no route"), True),
        (OSError(errno.ENOSPC, "disk full"), False),
        (PermissionError(errno.EACCES, "no"), False),
        (BadInputError("a bad row"), False),
        (HemlineError("a broken promise"), False),
        (ValueError("a bug"), False),
        (MemoryError(), False),
        (caused(HemlineError("the store cannot be read"), ConnectionResetError()), True),
        (caused(BadInputError("a bad address"), ConnectionResetError()), False),
        (caused(RuntimeError("wrapped"), BadInputError("a bad row")), False),
    ],
)
def test_lost_connections_pass_and_what_a_person_must_mend_does_not(error, passes):
    assert is_transient(error) is passes
