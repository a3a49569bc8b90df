"""The suppression list: keyed hashes that name nobody, and no quiet failure of the key."""

import json

import pytest

from ml.errors import BadInputError
from ml.people.suppression import add, load, values_of

USER = "customer-0815"


def test_the_list_and_its_key_are_private_and_name_nobody(tmp_path):
    made = add(tmp_path, None, [USER])
    folder = tmp_path / "people"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "key").stat().st_mode & 0o777 == 0o600 and len((folder / "key").read_bytes()) > 32
    assert USER not in (folder / "suppressed.json").read_text()
    assert made.key.decode() not in (folder / "suppressed.json").read_text() and made.key.decode() not in repr(made)
    assert load(tmp_path, None).holds(USER) and not load(tmp_path, None).holds("customer-0816")
    assert not load(tmp_path / "elsewhere", None), "nobody was ever forgotten there"


def test_adding_again_keeps_everybody_and_the_time_of_the_first_request(tmp_path):
    add(tmp_path, None, [USER])
    first = json.loads((tmp_path / "people" / "suppressed.json").read_text())
    add(tmp_path, None, [USER, "another"])
    second = json.loads((tmp_path / "people" / "suppressed.json").read_text())
    assert len(second["customers"]) == 2 and first["customers"].items() <= second["customers"].items()


def test_two_homes_hash_the_same_customer_differently(tmp_path):
    one, other = (add(tmp_path / name, None, [USER]) for name in ("one", "other"))
    assert one.hashes.isdisjoint(other.hashes)


def test_a_list_that_cannot_be_read_is_never_an_empty_one(tmp_path):
    add(tmp_path, None, [USER])
    key = tmp_path / "people" / "key"
    with pytest.raises(BadInputError, match="another key"):
        load(tmp_path, "a secret of the environment")
    with pytest.raises(BadInputError, match="another key"):
        add(tmp_path, "a secret of the environment", ["another"])
    key.chmod(0o640)
    with pytest.raises(BadInputError, match="chmod 600"):
        load(tmp_path, None)
    key.unlink()
    for use in (lambda: load(tmp_path, None), lambda: add(tmp_path, None, ["another"])):
        with pytest.raises(BadInputError, match="restore it"):
            use()
    assert not key.exists(), "a new key would forget the list"


def test_a_key_of_the_settings_leaves_none_on_the_disk(tmp_path):
    add(tmp_path, "a secret of the environment, of any length " * 9, [USER])
    assert not (tmp_path / "people" / "key").exists()
    assert load(tmp_path, "a secret of the environment, of any length " * 9).holds(USER)


@pytest.mark.parametrize(
    "line",
    [
        '{"user_id": "customer-0815", "action"', "e1,customer-0815,click,too,many,values", "e1;customer-0815;x",
        "a | customer-0815 | b", "user_id: customer-0815", "{'user_id':'customer-0815'", "customer-0815",
    ],
)  # fmt: skip
def test_a_broken_line_gives_its_values_away(line):
    assert USER in values_of(line)
    assert "customer" not in values_of(line)
