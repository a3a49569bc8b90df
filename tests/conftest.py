"""Fixtures every room shares: one small Spark session, and one small shop taken through every job."""

import os
import re
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from ml.settings import SparkSettings
from ml.spark import spark_session

ROOT = Path(__file__).parents[1]


def pytest_xdist_make_scheduler(config, log):
    """Give a file to one worker, and the files that share the small shop to one, which makes it once.

    Not by groups of xdist: 3.8 loses their names under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByShop(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "the small shop" if _takes_the_shop(file) else file

    return ByShop(config, log)


@cache
def _takes_the_shop(file):
    """Whether a test or fixture of the file asks for the shop of this file, not for one of its own by that name."""
    text = (ROOT / file).read_text()
    asks = r"^(def test_\w+|@pytest\.fixture.*\ndef \w+)\((.*\W)?(eve_)?shop\W"
    return re.search(asks, text, re.MULTILINE) is not None and "\ndef shop(" not in text


@pytest.fixture(scope="session")
def spark():
    """The test run's Spark session."""
    session = spark_session(SparkSettings(master="local[2]", driver_memory="1g", shuffle_partitions=2))
    yield session
    session.stop()


@pytest.fixture(scope="session")
def eve_shop(spark, tmp_path_factory):
    """The small shop with its models fitted and its first night published; tests copy it and never change it."""
    from small_shop import AS_OF, EVE, make_shop

    from pipelines import flows
    from pipelines.run import Runner

    shop = make_shop(spark, tmp_path_factory.mktemp("shop") / "eve")
    runner = Runner(shop.settings)
    flows.train(runner, AS_OF)
    flows.nightly(runner, EVE)
    return shop


@pytest.fixture(scope="session")
def shop(eve_shop, tmp_path_factory):
    """The small shop after its last night and evaluation; tests read it and never change it."""
    from small_shop import LAST

    from pipelines import flows
    from pipelines.run import Runner

    done = eve_shop.copy(tmp_path_factory.mktemp("shop") / "done")
    runner = Runner(done.settings)
    flows.nightly(runner, LAST)
    flows.evaluate(runner)
    return done


@pytest.fixture
def s3(monkeypatch):
    """An object store on loopback, one for the test run; its credentials are in the environment."""
    from object_store_places import loopback_store

    return loopback_store(monkeypatch)


@pytest.fixture(scope="module")
def one_thread():
    """Models this small are slower on several threads, and far slower where other work wants the cores too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
