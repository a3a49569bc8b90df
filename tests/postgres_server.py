"""A real PostgreSQL server on loopback, in a temporary folder, for tests; it refuses to run as root."""

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "a secret: of $tests"
DATABASES = Path(__file__).parents[1] / "deploy" / "databases.sql"


@dataclass(frozen=True)
class Server:
    """A running server with the user and the databases of `deploy/`."""

    port: int
    programs: Path

    def url(self, database):
        """The address of a database, without the password."""
        return f"postgresql+psycopg2://hemline@127.0.0.1:{self.port}/{database}"

    def query(self, database, sql):
        """Rows of a query; of a command, none."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="hemline", password=PASSWORD, dbname=database
        )
        try:
            connection.autocommit = True  # some commands run in no transaction
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def files(self):
        """The folder of the files in which tables, indexes and statistics lie, as they are now."""
        self.query("postgres", "CHECKPOINT")
        ((data,),) = self.query("postgres", "SHOW data_directory")
        return Path(data) / "base"


def programs():
    """The folder of PostgreSQL's programs; skips the test where there is none."""
    found = shutil.which("initdb")
    folders = [str(Path(found).resolve().parent)] if found else sorted(glob.glob("/usr/lib/postgresql/*/bin"))  # noqa: PTH207
    usable = [folder for folder in folders if Path(folder, "postgres").exists()]
    if not usable:
        pytest.skip("PostgreSQL's programs (initdb, postgres) are not installed: `make postgres` installs them")
    return Path(usable[-1])


def free_port():
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _unprivileged():
    """Whom to run the server as: root may not."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def postgres():
    """Start a server with the databases that `deploy/` makes; its files go when it ends."""
    where, who = programs(), _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="hemline-postgres-"))
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if who:
        for path in (folder, secret):
            os.chown(path, who["user"], who["group"])
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, **who}
    made = [where / "initdb", "-D", folder / "data", "-U", "hemline", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C",
            "--no-sync", f"--pwfile={secret}"]  # fmt: skip
    subprocess.run(made, check=True, **quiet)
    port = free_port()
    options = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}", "fsync=off"]
    command = [where / "postgres", "-D", folder / "data", *(part for option in options for part in ("-c", option))]
    server = subprocess.Popen(command, **quiet, stderr=subprocess.DEVNULL)
    try:
        _prepare(where, port, server)
        yield Server(port, where)
    finally:
        server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown: it waits for no client
        server.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(where, port, server):
    deadline = time.monotonic() + 60
    ready = [where / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready).returncode:
        assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL did not start"
        time.sleep(0.1)
    client = [where / "psql", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "hemline", "-v", "ON_ERROR_STOP=1"]
    environment = {**os.environ, "PGPASSWORD": PASSWORD}
    subprocess.run([*client, "-d", "postgres", "-f", DATABASES], check=True, env=environment)
