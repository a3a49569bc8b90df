"""The command line as a person meets it: what it shows, and how it says no."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_shop import EVE, LAST
from typer.testing import CliRunner

from ml.language_model import has_gpu
from pipelines.cli import app
from pipelines.settings import load_settings


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """No settings of the person who runs the tests; what a command leaves in the environment goes with the test."""
    for name in [n for n in os.environ if n.startswith("HEMLINE_")]:
        monkeypatch.delenv(name)
    for name in ("HEMLINE_SETTINGS", "HEMLINE_PROFILE", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def hemline(*arguments, code=0):
    """Everything a command prints; it must end with `code`."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_settings_are_listed_with_where_each_came_from(tmp_path, monkeypatch):
    file = tmp_path / "my.yaml"
    file.write_text("profile: demo\nwarehouse: tables\n")
    monkeypatch.setenv("HEMLINE_GENERATION__MAX_USERS", "7")
    lines = {line.split()[0]: line for line in hemline("settings", "--settings", file).splitlines() if line.strip()}
    assert str(tmp_path / "tables") in lines["warehouse"] and str(file) in lines["warehouse"]
    assert " 7 " in lines["generation.max_users"] and "environment" in lines["generation.max_users"]
    assert "profile demo" in lines["generation.max_new_tokens"]
    assert lines["generation.top_p"].split()[1:] == ["0.95", "default"]


@pytest.mark.parametrize("command", ["settings", "train", "nightly", "evaluate"])
def test_a_typo_in_the_settings_stops_every_command(tmp_path, command):
    (tmp_path / "hemline.yaml").write_text("generation: {max_userz: 3}\n")  # found without being named
    said = hemline(command, code=1)
    assert "generation.max_userz=3" in said and "max_users" in said and "hemline.yaml" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nightly", "--category", "Hats"), ["Hats", "Clothing", "Footwear"]),
        (("train", "--category", "Hats"), ["Hats", "Clothing"]),
        (("evaluate", "--category", "Hats"), ["Hats", "Clothing"]),
        (("nightly", "--date", "yesterday"), ["--date", "yesterday", "2026-11-20"]),
        (("nightly", "--date", "2026-02-30"), ["--date", "2026-02-30"]),
        (("train", "--as-of", "20-20"), ["--as-of", "20-20"]),
        (("show", "nobody"), ["nobody", "not active"]),
        (("show", "bag-lover", "--date", "2001-01-01"), ["2001-01-01", EVE, LAST]),
        (("nightly", "--date", "2001-01-01"), ["2001-01-01"]),
        (("nightly", "--date", "2031-01-01"), ["2031-01-01"]),
    ],
)
def test_a_wrong_argument_is_refused_with_what_was_expected(shop, arguments, words):
    before = shop.published()
    said = hemline(*arguments, "--settings", shop.file, code=1)
    for word in words:
        assert word in said
    assert "Traceback" not in said and shop.published() == before


def test_show_prints_what_a_customer_did_beside_what_is_recommended(shop):
    said = hemline("show", "bag-lover", "--settings", shop.file)
    assert "purchase Leather bag" in said and "bag-lover · Bags" in said
    assert " 1 " in said and "recommended" in said
    assert "Clothing" in hemline("show", "bag-lover", "--date", EVE, "--settings", shop.file)


def test_show_before_the_first_night_says_what_to_run(tmp_path):
    assert "hemline nightly" in hemline("show", "someone", code=1)


def test_init_writes_settings_that_load(shop, tmp_path):
    raw = shop.folder / "raw"
    file = tmp_path / "new" / "hemline.yaml"
    arguments = ("init", "--raw-log", raw / "interactions", "--catalog", raw / "catalog.parquet", "--file", file)
    assert "wrote" in hemline(*arguments)
    settings = load_settings(file, environment={}).settings
    assert {"Clothing", "Footwear"} <= set(settings.categories)
    assert settings.raw_log == raw / "interactions" and settings.start_date == shop.settings.start_date
    assert settings.prompts.max_train == (None if has_gpu() else 300), "a CPU is not asked to train on everything"
    assert "exists already" in hemline(*arguments, code=1)
    other = (*arguments[:-1], tmp_path / "other.yaml", "--profile")
    assert "demo, paper, two_cores" in hemline(*other, "laptop", code=1) and not (tmp_path / "other.yaml").exists()
    hemline(*other, "paper")
    assert load_settings(tmp_path / "other.yaml", environment={}).settings.language_model.quantization == "nf4"


def test_a_simulated_shop_is_a_log_that_init_understands(spark, tmp_path):
    hemline("simulate", "--out", tmp_path / "raw", "--customers", 20, "--items", 20, "--days", 4, "--end", LAST,
            "--category", "Footwear", "--category", "Luggage & Bags")  # fmt: skip
    assert len(list((tmp_path / "raw" / "interactions").glob("event_date=*"))) == 4
    hemline("init", "--raw-log", tmp_path / "raw" / "interactions", "--catalog", tmp_path / "raw" / "catalog.parquet",
            "--warehouse", tmp_path / "tables")  # fmt: skip
    assert load_settings(tmp_path / "hemline.yaml").settings.categories == ["Footwear", "Luggage & Bags"]


def test_init_on_nothing_says_what_it_looked_for(tmp_path):
    said = hemline("init", "--raw-log", tmp_path / "none", "--catalog", tmp_path / "none.parquet", code=1)
    assert "none" in said and "Traceback" not in said


def test_without_java_one_sentence_says_what_to_install(eve_shop, tmp_path):
    copy = eve_shop.copy(tmp_path / "copy")
    before = copy.published()
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "COLUMNS": "200"}
    for java_home in (None, str(tmp_path / "no-java")):
        child = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "nightly", "--settings", str(copy.file)],
            capture_output=True, text=True, cwd=Path(__file__).parents[2],
            env=environment | ({"JAVA_HOME": java_home} if java_home else {}),
        )  # fmt: skip
        assert child.returncode == 1, child.stderr
        said = [line for line in child.stderr.splitlines() if "Java" in line]
        assert len(said) == 1 and "Java 17" in said[0] and "apt-get install" in said[0]
        assert "Traceback" not in child.stderr
    assert copy.published() == before
    assert shutil.which("java"), "the other tests do have one"


@pytest.mark.parametrize("command", ["evaluate", "experiments"])
def test_from_log_fits_everything_before_it_is_compared(tmp_path, monkeypatch, command):
    from pipelines import flows, summary

    (tmp_path / "hemline.yaml").write_text("raw_log: log\ncatalog: items.parquet\ncategories: [Hats]\n")
    done = []
    for name in ("train", command):
        monkeypatch.setattr(flows, name, lambda *_, name=name, **__: done.append(name))
    for name in ("print_metrics", "print_experiments"):
        monkeypatch.setattr(summary, name, lambda *_: None)
    hemline(command)
    assert done == [command]
    hemline(command, "--from-log")
    assert done[1:] == ["train", command]
