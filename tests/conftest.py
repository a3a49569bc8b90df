"""Fixtures every room shares: one small Spark session for the whole run."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from ml.settings import SparkSettings
from ml.spark import spark_session


@pytest.fixture(scope="session")
def spark():
    """The test run's Spark session."""
    session = spark_session(SparkSettings(master="local[2]", driver_memory="1g", shuffle_partitions=2))
    yield session
    session.stop()
