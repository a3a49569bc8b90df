"""Secrets given through the environment: in no output of a command, no event of a run, and no tag of MLflow."""

import sqlite3
from contextlib import closing

import dagster as dg
import pytest
from test_cli import hemline, own_environment  # noqa: F401  (a fixture)

from assets import define
from assets.tracking import settings_hash
from ml.models.registry import ModelRegistry
from pipelines.settings import load_settings

PASSWORD, KEY = "correct-horse-battery", "staple-of-sixteen-characters"
SECRETS = {
    "HEMLINE_TRACKING_URI": f"https://hem:{PASSWORD}@mlflow.test",
    "HEMLINE_PRIVACY__KEY": KEY,
    "HEMLINE_SPARK__CONF": f"{{spark.hadoop.fs.s3a.secret.key: {PASSWORD}}}",
}


def hidden(text):
    """Whether no secret stands in a text."""
    return PASSWORD not in text and KEY not in text


@pytest.fixture
def secrets(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_settings_are_listed_without_them(secrets):
    said = hemline("settings")
    assert hidden(said) and "https://hem:***@mlflow.test" in said and "environment HEMLINE_PRIVACY__KEY" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEMLINE_TRACKING_URL", f"https://hem:{PASSWORD}@mlflow.test"),
        ("HEMLINE_PRIVACY__KEY", "correct-horse"),
        ("HEMLINE_PRIVACY__SECRET", PASSWORD),
        ("HEMLINE_HOME", f"s3://key:{PASSWORD}@bucket"),
    ],
)
def test_a_setting_that_is_refused_is_named_without_its_secret(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    said = hemline("settings", code=1)
    assert hidden(said) and "correct-horse" not in said and "setting" in said


def test_no_hash_of_the_settings_holds_one(secrets, monkeypatch):
    before = settings_hash(load_settings().settings)
    monkeypatch.setenv("HEMLINE_PRIVACY__KEY", "another key of the same shop")
    monkeypatch.setenv("HEMLINE_TRACKING_URI", "https://hem:another@mlflow.test")
    assert settings_hash(load_settings().settings) == before
    assert hidden(load_settings().settings.privacy.model_dump_json())


@pytest.mark.parametrize("error", [ValueError, ConnectionResetError])
def test_a_step_that_fails_with_one_is_recorded_without_it(secrets, error, monkeypatch, tmp_path):
    monkeypatch.setattr(define, "FIRST_WAIT_SECONDS", 0.01)
    address = load_settings().settings.tracking_uri

    @define.asset(name="made")
    def made() -> None:
        try:
            raise KeyError(address)
        except KeyError:
            raise error(f"API request to {address} failed") from None

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        result = dg.materialize([made], instance=instance, raise_on_error=False)
        said = "\n".join(str(entry) for entry in instance.all_logs(result.run_id))
    assert not result.success and "API request to https://hem:***@mlflow.test failed" in said and hidden(said)
    assert all(hidden(path.read_bytes().decode("utf-8", "replace")) for path in tmp_path.rglob("*") if path.is_file())


def test_a_fit_that_fails_with_one_leaves_a_tag_without_it(secrets, tmp_path):
    address = load_settings().settings.tracking_uri
    registry = ModelRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts", tmp_path / "cache")
    with pytest.raises(ValueError), registry.run("adapter", "Hats", tags={}, params={}):
        raise ValueError(f"{address} did not answer")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        tags = dict(database.execute("SELECT key, value FROM tags"))
    assert "https://hem:***@mlflow.test did not answer" in tags["error"] and hidden(str(tags))
