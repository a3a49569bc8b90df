"""The one way to a Spark session: in this process (`local[…]`), or on a cluster whose executors are elsewhere.

A cluster's executors see nothing of this process. They need the raw log, the warehouse and `home` under the same paths
(one shared file system), and a Python of the same version with the same packages; `ml` itself is sent to them.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ml.errors import HemlineError
from ml.settings import SparkSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_LOOPBACK = "127.0.0.1"
_IN_PROCESS = re.compile(r"local(\[.*\])?")
"""Masters whose executor is this process; `local-cluster[…]` starts others."""
_SENT: set[str] = set()
"""Spark applications whose executors have the code."""
_INSTALL = (
    "Install one (Debian: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17) or set JAVA_HOME."
)


def spark_session(settings: SparkSettings, app_name: str = "hemline") -> SparkSession:
    """Return the process's Spark session, started with `settings` if there is none.

    Times are UTC throughout, and Parquet time stamps are microseconds, as `ml.tables` has them. Executors in other
    processes get this process's `ml` as an archive, whatever version is installed there.
    """
    from pyspark.sql import SparkSession

    # Workers see the same packages, whatever PATH says; a cluster that has them elsewhere sets the variable.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    quiet = f"-Dlog4j2.configurationFile={(Path(__file__).parent / 'log4j2.properties').as_uri()}"
    builder = (
        SparkSession.builder.appName(app_name)
        .master(settings.master)
        .config("spark.driver.memory", settings.driver_memory)
        .config("spark.sql.shuffle.partitions", str(settings.shuffle_partitions))
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", str(sys.stderr.isatty()).lower())
        .config("spark.driver.extraJavaOptions", quiet)
    )
    if settings.master.startswith("local"):  # local-cluster too: its executors are on this machine
        os.environ.setdefault("SPARK_LOCAL_IP", _LOOPBACK)
        builder = builder.config("spark.driver.bindAddress", _LOOPBACK).config("spark.driver.host", _LOOPBACK)
    for key, value in settings.conf.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    if not _IN_PROCESS.fullmatch(settings.master):
        _send_code(session)
    return session


def _send_code(session: SparkSession) -> None:
    """Give the session's executors this process's `ml` as an archive, once; it goes before what is installed there."""
    context = session.sparkContext
    if context.applicationId in _SENT:
        return
    package = Path(__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="hemline-code-"))  # executors that join later fetch it too
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(folder / "hemline.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*.py")):
            archive.write(path, path.relative_to(package.parent))
    context.addPyFile(str(folder / "hemline.zip"))
    _SENT.add(context.applicationId)


@contextmanager
def cached(*frames: DataFrame) -> Iterator[list[DataFrame]]:
    """Keep the frames' rows while the block runs, and no longer, whatever it raises.

    Spark takes a kept frame for any later one that reads the same paths, though the files may be others by then.
    """
    kept = [frame.cache() for frame in frames]
    try:
        yield kept
    finally:
        for frame in kept:
            frame.unpersist()


@contextmanager
def executors_words(what: str) -> Iterator[None]:
    """Raise HemlineError with what an executor said, not with Java's traceback, where the block fails on one."""
    try:
        yield
    except HemlineError:
        raise
    except Exception as error:
        raise HemlineError(f"{what} on Spark's executors: {_own_words(error)}") from error


def _own_words(error: Exception) -> str:
    """Return the sentence of our own that an executor raised, or else the last line of its Python traceback."""
    lines = [line.strip() for line in str(error).splitlines()]
    python = [line for line in lines if ": " in line and not line.startswith(("at ", "File ", "Caused by"))]
    own = [line for line in python if line.startswith("ml.errors.")]
    return own[0].partition(": ")[2] if own else (python or lines or [repr(error)])[-1]


class SparkSource:
    """A Spark session that starts when it is first asked for, so that runs without Spark never pay for a JVM."""

    def __init__(self, settings: SparkSettings) -> None:
        self.settings = settings

    @property
    def session(self) -> SparkSession:
        """The process's session; raises HemlineError when no Java 17+ can be started."""
        require_java()
        return spark_session(self.settings)


def require_java() -> None:
    """Raise HemlineError with what to do unless a Java of version 17 or newer can be started."""
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else "java"
    try:
        shown = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise HemlineError(
            f"Spark needs Java 17 or newer and {program!r} did not start ({error}). {_INSTALL}"
        ) from None
    found = re.search(r'version "(\d+)(?:\.(\d+))?', shown)
    major = int(found[2] if found and found[1] == "1" and found[2] else found[1]) if found else 0
    if major < 17:
        raise HemlineError(f"Spark needs Java 17 or newer; {program!r} is version {major or shown!r}. {_INSTALL}")
