"""Passwords and keys among the settings: known to the process, shown by nothing."""

import pytest
from pydantic import SecretStr

from ml.errors import BadInputError, HemlineError
from ml.secrets import redact, redacted, shown
from ml.settings import PrivacySettings, Settings, SparkSettings

ADDRESS = "https://hem:hunter2%2Fline@mlflow.test/api"


@pytest.fixture(scope="module")
def settings():
    conf = {"spark.hadoop.fs.s3a.secret.key": "AKIA-very-secret", "spark.ui.enabled": "false"}
    privacy = PrivacySettings(key=SecretStr("a long key of the shop"))
    return Settings(tracking_uri=ADDRESS, spark=SparkSettings(conf=conf), privacy=privacy)


@pytest.mark.parametrize("secret", ["hunter2%2Fline", "hunter2/line", "AKIA-very-secret", "a long key of the shop"])
def test_what_quotes_a_secret_is_shown_without_it(settings, secret):
    assert secret not in redact(f"no answer from {secret}, tried again")
    error = redacted(ConnectionError(f"{ADDRESS} or {secret}: refused"))
    assert isinstance(error, HemlineError) and secret not in str(error)
    assert "ConnectionError" in str(error) and "mlflow.test" in str(error)
    assert secret not in str(settings.privacy) + settings.privacy.model_dump_json()
    values = {"tracking_uri": settings.tracking_uri, "spark.conf": settings.spark.conf, "key": settings.privacy.key}
    assert not [name for name, value in values.items() if secret in shown(name, value)]


def test_an_address_with_a_password_that_nobody_set_is_shown_without_it():
    assert redact("postgresql://hem:other@db.test:5432/x failed") == "postgresql://hem:***@db.test:5432/x failed"
    assert redact("see http://127.0.0.1:5000 and a@b.test") == "see http://127.0.0.1:5000 and a@b.test"


def test_an_error_without_a_secret_is_left_alone_and_a_cause_with_one_is_not(settings):
    error = BadInputError("settings: a wrong day")
    assert redacted(error) is error
    outer = BadInputError("the server failed")
    outer.__cause__ = OSError(ADDRESS)
    clean = redacted(outer)
    assert isinstance(clean, BadInputError) and str(clean) == "the server failed" and clean.__cause__ is None


def test_a_setting_that_is_no_secret_is_shown_as_it_is():
    assert shown("generation.max_new_tokens", 64) == "64"
    assert shown("spark.conf", {"spark.ui.enabled": "false"}) == "{'spark.ui.enabled': 'false'}"
    assert shown("privacy.key", None) == "None"
