"""Free text without a customer, and structure that no customer's name can touch."""

import json
import sqlite3
from contextlib import closing

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from model_registries import new_registry

from ml.people import databases
from ml.people.databases import scrub_database, vacuum
from ml.people.files import scrub_logs
from ml.people.scrub import Scrub
from ml.people.tracking import clean_file, remove_from_runs

IDS = ["U0000047", "U0000047-15-0", "e-1", "jane.doe@shop.test", "two words"]


def test_ids_go_as_whole_words_and_searches_as_they_are():
    scrub = Scrub(IDS, ["kakapo jumper", "red"])
    said = "customer 'U0000047': U0000047-15-0, U00000471, jane.doe@shop.test. 'two words'; Kakapo kakapo jumper redder"
    assert scrub(said) == (
        "customer '[forgotten]': [forgotten], U00000471, [forgotten]. '[forgotten]'; Kakapo [forgotten] redder"
    )


@given(st.text(max_size=60), st.text(max_size=60))
def test_nothing_else_changes(before, after):
    assert Scrub(["a-very-distinctive-id"])(before + after) == before + after


def test_pictures_stay_as_they_are():
    text = "![plot](data:image/png;base64,AB/e-1/7+e-1==) e-1"
    assert Scrub(IDS)(text) == "![plot](data:image/png;base64,AB/e-1/7+e-1==) [forgotten]"


def test_a_log_behind_a_link_is_somebody_elses_file(tmp_path):
    elsewhere = tmp_path / "elsewhere.log"
    elsewhere.write_text("customer U0000047 asked")
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "own.err").write_text("customer U0000047 asked")
    (logs / "linked.log").symlink_to(elsewhere)
    assert scrub_logs(logs, Scrub(IDS)) == 1
    assert (logs / "own.err").read_text() == "customer [forgotten] asked"
    assert elsewhere.read_text() == "customer U0000047 asked"
    assert (logs / "linked.log").is_symlink()


def test_a_customer_whose_id_is_a_word_of_the_records_breaks_no_record(tmp_path):
    event = {
        "__class__": "Event",
        "step_key": "interactions",
        "user_message": "interactions of U0000047",
        "run_id": "7",
    }
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'events.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE logs (id INTEGER PRIMARY KEY, event TEXT, step TEXT)"))
        rows = [{"event": json.dumps(event), "step": "interactions"}] * 1200
        connection.execute(sa.text("INSERT INTO logs (event, step) VALUES (:event, :step)"), rows)
    with engine.begin() as connection:
        changed = scrub_database(connection, Scrub(["interactions", "7", "Event", "U0000047"]))
    engine.dispose()
    assert changed == 1200
    with closing(sqlite3.connect(tmp_path / "events.db")) as database:
        kept = {(json.loads(text)["step_key"], json.loads(text)["user_message"], json.loads(text)["run_id"], step)
                for text, step in database.execute("SELECT event, step FROM logs")}  # fmt: skip
    assert kept == {("interactions", "[forgotten] of [forgotten]", "7", "interactions")}


def test_what_was_deleted_is_in_no_free_page_and_a_database_in_use_is_told(tmp_path, monkeypatch):
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA secure_delete=OFF")
        with database:
            database.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, t TEXT)")
            database.executemany("INSERT INTO a (t) VALUES (?)", [("canary " * 200,)] * 50)
        with database:
            database.execute("DELETE FROM a")
    assert b"canary" in b"".join(part.read_bytes() for part in tmp_path.iterdir())
    monkeypatch.setattr(databases, "_BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM a").fetchone()
        assert not vacuum(f"sqlite:///{path}")
    assert vacuum(f"sqlite:///{path}")
    assert b"canary" not in b"".join(part.read_bytes() for part in tmp_path.iterdir())


def test_rows_of_tables_go_and_example_answers_to_their_purchases():
    scrub = Scrub(IDS)
    rows = [{"example_id": "e-1", "perplexity": 2.0}, {"example_id": "e-2", "perplexity": 3.0}]
    assert json.loads(clean_file(".json", json.dumps(rows).encode(), scrub)) == rows[1:]
    same = json.dumps(rows[1:]).encode()
    assert clean_file(".json", same, scrub) is same
    assert clean_file(".csv", b"example_id,x\ne-1,2\ne-2,3\n", scrub) == b"example_id,x\ne-2,3\n"
    answers = b"bought: AB | Red hat\nwrote:  i1 | Red hat\n\nbought: CD | Blue hat\nwrote:  i2 | \n"
    assert clean_file(".md", answers, scrub, ["Red hat"]) == (
        b"bought: [forgotten]\n\nbought: CD | Blue hat\nwrote:  i2 | \n"
    )


def test_every_run_of_mlflow_is_cleaned_deleted_ones_too_and_every_folder_of_it(tmp_path, monkeypatch):
    registry, search, runs = new_registry(tmp_path), MlflowClient.search_runs, []
    for number in range(3):
        with pytest.raises(ValueError), registry.run("ranker", "Hats", tags={}, params={}) as run:
            runs.append(run.run_id)
            run.text(f"answer to e-{number}", "examples/deep/answers.md")
            raise ValueError(f"example e-{number} is odd")
    registry.client.delete_run(runs[0])
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **how: search(*a, **{**how, "max_results": 2}))
    scrub = Scrub(["e-0", "e-1", "e-2"])
    assert remove_from_runs(registry, scrub, ()) == {"mlflow artifacts": 3, "mlflow tags": 3}
    for run, stage in zip(runs, ["deleted", "active", "active"], strict=True):
        kept = registry.client.get_run(run)
        assert (kept.info.lifecycle_stage, kept.data.tags["error"]) == (stage, "ValueError: example [forgotten] is odd")
    assert remove_from_runs(registry, scrub, ()) == {}
