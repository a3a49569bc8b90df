"""Settings: what wins, what is refused, and how it is said."""

import shlex
from pathlib import Path

import pytest

from ml.errors import BadInputError
from pipelines.settings import flatten, load_settings


def test_environment_beats_file_beats_profile_beats_default(tmp_path: Path):
    file = tmp_path / "hemline.yaml"
    file.write_text("profile: demo\nwarehouse: tables\ngeneration: {max_users: 7, batch_size: 3}\n")
    loaded = load_settings(file, environment={"HEMLINE_GENERATION__MAX_USERS": "5"})
    assert loaded.settings.generation.max_users == 5
    assert loaded.settings.generation.batch_size == 3
    assert loaded.settings.generation.max_new_tokens == 40  # the profile's
    assert loaded.settings.generation.top_p == 0.95  # the default
    assert loaded.sources["generation.max_users"] == "environment HEMLINE_GENERATION__MAX_USERS"
    assert loaded.sources["generation.batch_size"] == str(file)
    assert loaded.sources["generation.max_new_tokens"] == "profile demo"
    assert "generation.top_p" not in loaded.sources


def test_relative_paths_belong_to_the_file(tmp_path: Path):
    file = tmp_path / "shop" / "hemline.yaml"
    file.parent.mkdir()
    file.write_text("raw_log: log\n")
    assert load_settings(file, environment={}).settings.raw_log == tmp_path / "shop" / "log"
    assert load_settings(file, environment={}).settings.home == tmp_path / "shop" / ".hemline", "defaults too"
    assert load_settings(file, environment={"HEMLINE_HOME": "elsewhere"}).settings.home == Path.cwd() / "elsewhere"
    assert load_settings(environment={}).settings.home == Path.cwd() / ".hemline"


def test_a_folder_of_any_name_and_the_home_directory_are_understood_in_a_file(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path("environment", "hemline.yaml")
    file.parent.mkdir()
    file.write_text("raw_log: ~/log\ncatalog: items.csv\n")
    settings = load_settings(file, environment={}).settings
    assert settings.raw_log == Path.home() / "log" and settings.catalog == tmp_path / "environment" / "items.csv"


def test_a_shown_command_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("here", "a shop"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hemline.yaml").write_text("profile: demo\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load_settings(environment={}).settings.command("show U") == "hemline show U"
    absolute = {"HEMLINE_SETTINGS": str(tmp_path / "here" / "hemline.yaml"), "HEMLINE_PROFILE": "two_cores"}
    assert load_settings(environment=absolute).settings.command("show U") == "hemline show U --profile two_cores"
    elsewhere = tmp_path / "a shop" / "hemline.yaml"
    shown = load_settings(elsewhere, environment={}).settings.command("show U")
    assert shlex.split(shown) == ["hemline", "show", "U", "--settings", str(elsewhere)]
    monkeypatch.chdir(tmp_path)
    shown = load_settings(elsewhere, environment={}).settings.command("show U")
    assert shown == "hemline show U --settings 'a shop/hemline.yaml'"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("warehose: x", ["unknown setting warehose", "'x'", "did you mean 'warehouse'"]),
        ("generation: {max_userz: 3}", ["generation.max_userz", "max_users"]),
        ("generation: {max_users: many}", ["generation.max_users", "'many'", "integer"]),
        ("log: {time_zone: Mars/Olympus}", ["log.time_zone", "Mars/Olympus", "IANA"]),
        ("categories: [a/b]", ["categories", "a/b"]),
        ("categories: ['..']", ["categories", "'..'", "expected a name"]),
        ("recommendations: {k: 1, mixup_n: 4}", ["mixup_n", "at most"]),
        ("start_date: '2026-02-30'", ["start_date", "2026-02-30", "day of the calendar"]),
        ("warehouse: gs://bucket/tables", ["warehouse", "gs://bucket/tables", "local file system"]),
        ("- a list", ["expected `name: value` lines"]),
        ("a: [", ["not readable as YAML"]),
    ],
)
def test_a_wrong_setting_is_refused_by_name_value_and_expectation(tmp_path: Path, text: str, words: list[str]):
    file = tmp_path / "hemline.yaml"
    file.write_text(text)
    with pytest.raises(BadInputError) as error:
        load_settings(file, environment={})
    for word in [*words, str(file)] if "mixup" not in text else words:
        assert word in str(error.value)


def test_a_missing_file_and_an_unknown_profile_say_what_to_do(tmp_path: Path):
    with pytest.raises(BadInputError, match="hemline init"):
        load_settings(tmp_path / "none.yaml", environment={})
    with pytest.raises(BadInputError, match="demo, paper"):
        load_settings(profile="../demo", environment={})


def test_every_setting_is_listed():
    names = dict(flatten(load_settings(profile="paper", environment={}).settings))
    assert names["language_model.base_model"] == "tiiuae/falcon-7b"
    assert "catalog_columns.item_id" in names
