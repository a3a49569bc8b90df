"""`kill -9` while a customer is forgotten, at several points, and the same call again: nothing is left of them."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from model_registries import TAGS, new_registry, register
from people_scan import findings
from people_shop import CANARY, forget_in, made, table

from ml.errors import BadInputError
from ml.people.forgetting import _remove_work, audit_records
from ml.people.suppression import Suppression, suppression_of
from ml.people.traces import Traces
from ml.settings import Settings

ROOT = Path(__file__).parents[2]
CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from people_shop import CANARY, forget_in
home, point, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
seen = []

def die(reached):
    seen.append(reached)
    if seen.count(point) == number:
        os.kill(os.getpid(), signal.SIGKILL)

forget_in(home, [CANARY], die)
"""


@pytest.mark.parametrize(
    ("point", "number"), [("staged", 1), ("before exchange", 3), ("after exchange", 5), ("before exchange", 8)]
)
def test_what_a_kill_left_the_same_call_takes_out(tmp_path, point, number):
    warehouse = made(tmp_path)
    files = {str(path) for path in tmp_path.rglob("*.parquet")}
    assert len(findings(tmp_path, [CANARY])) >= len(files), "every table, and MLflow's artifact"
    script = CHILD.format(tests=str(ROOT / "tests"))
    command = [sys.executable, "-c", script, str(tmp_path), point, str(number)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    settings = Settings(home=tmp_path)
    assert suppression_of(settings).holds(CANARY), "kept out from the very beginning"
    assert findings(tmp_path, [CANARY])

    forget_in(tmp_path, [CANARY])
    assert findings(tmp_path, [CANARY]) == {}
    for name in ("interactions", "rejected_interactions", "recommendations", "training_sequences"):
        assert warehouse.dataset(name).count_rows() == (1 if name == "training_sequences" else 2), name
    records = audit_records(tmp_path)
    assert [record["event"] for record in records] == ["begun", "begun", "done"]
    assert not forget_in(tmp_path, [CANARY]).removed, "said again, nothing is left to do"
    assert {name for record in records for name in record["customers"]} == {suppression_of(settings).hash(CANARY)}


def test_it_waits_for_a_step_that_writes_and_says_so(tmp_path):
    warehouse, waiting = made(tmp_path), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with warehouse.step("recommendations"):
            forgetting = pool.submit(forget_in, tmp_path, [CANARY], on_wait=waiting.set)
            assert waiting.wait(30) and not forgetting.done()
            assert warehouse.dataset("recommendations").count_rows() == 4, "nothing is taken out yet"
            assert suppression_of(Settings(home=tmp_path)).holds(CANARY), "but nothing new comes in"
        assert forgetting.result(60).removed


def test_an_unknown_customer_is_suppressed_and_nothing_else_happens(tmp_path):
    made(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "warehouse").rglob("*.parquet")}
    done = forget_in(tmp_path, ["nobody-knows"])
    assert not done.removed and not done.models and not done.raw_days
    assert suppression_of(Settings(home=tmp_path)).holds("nobody-knows")
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "warehouse").rglob("*.parquet")}


@pytest.mark.parametrize("users", [[], [""], ["known", "  "]])
def test_an_empty_id_is_refused_before_anything_is_done(tmp_path, users):
    with pytest.raises(BadInputError, match="expected the ids of customers"):
        forget_in(tmp_path, users)
    assert suppression_of(Settings(home=tmp_path)) == Suppression()


def test_a_record_that_a_kill_cut_short_spoils_no_later_one_and_only_the_owner_reads_them(tmp_path):
    made(tmp_path)
    forget_in(tmp_path, ["somebody"])
    audit = tmp_path / "people" / "audit.jsonl"
    audit.write_text(audit.read_text()[:-9])
    forget_in(tmp_path, [CANARY])
    assert [record["event"] for record in audit_records(tmp_path)] == ["begun", "begun", "done"]
    assert audit.stat().st_mode & 0o777 == 0o600


def test_models_are_named_again_when_the_tables_no_longer_say_whose_purchases_they_were_fitted_on(tmp_path):
    registry = new_registry(tmp_path)
    made(tmp_path, registry=registry)
    registry.promote(register(registry, tmp_path / "fitted", [1.0], "item_embeddings", "Hats"))
    (model,) = forget_in(tmp_path, [CANARY]).models
    again = forget_in(tmp_path, [CANARY, "nobody-knows"])
    assert not again.removed and again.models == [model]
    assert forget_in(tmp_path, ["somebody"]).models == [], "of others' calls none"


def test_a_report_whose_tables_are_gone_is_deleted(tmp_path):
    made(tmp_path)
    page = tmp_path / "report" / "index.html"
    page.parent.mkdir()
    page.write_text(f"{CANARY} was shown a hat")
    assert forget_in(tmp_path, [CANARY]).removed["report"] == 1
    assert not page.exists()


def test_work_that_was_made_of_their_events_goes_and_no_other(tmp_path):
    settings = Settings(home=tmp_path)
    work, elsewhere = settings.work_folder, tmp_path / "elsewhere"
    by_scope = ("adapter", "title_encoder", "title_index", "item_embeddings", "id_index", "ranker")
    by_category = ("evaluation", "generations")
    theirs = [work / kind / scope for kind in by_scope for scope in ("Hats", "all")]
    theirs += [*(work / kind / "Hats" for kind in by_category), work / "experiments"]
    kept = [work / kind / "Coats" for kind in (*by_scope, *by_category)] + [work / "ranges", elsewhere / "Shoes"]
    for folder in (*theirs, *kept):
        (folder / "state").mkdir(parents=True)
    (work / "ranker" / "Shoes").symlink_to(elsewhere / "Shoes")
    scopes = {"Hats": ["Hats"], "Shoes": ["Shoes"], "Coats": ["Coats"], "all": ["Hats", "Bags"]}
    assert _remove_work(settings, scopes, Traces(frozenset([CANARY]))) == 0
    assert _remove_work(settings, scopes, Traces(frozenset([CANARY]), categories={"Hats", "Shoes"})) == len(theirs)
    assert not any(folder.exists() for folder in theirs)
    assert all((folder / "state").exists() for folder in kept), "nor what lies elsewhere"


def test_example_answers_to_what_they_bought_go_and_others_stay(tmp_path):
    registry = new_registry(tmp_path)
    warehouse = made(tmp_path, registry=registry)
    hats = [{"item_id": item, "title": title, "category": "Hats", "attributes": []}
            for item, title in (("i", "Red hat"), ("j", "Blue hat"))]  # fmt: skip
    warehouse.publish("catalog", table("catalog", hats))
    answers = [f"bought: AB | {hat['title']}\nwrote:  {hat['item_id']} | {hat['title']}\n" for hat in hats]
    with registry.run("adapter", "Hats", tags=TAGS, params={}) as run:
        run.text("\n".join(answers), "example_generations.md")
    forget_in(tmp_path, [CANARY])
    (page,) = tmp_path.glob("artifacts/**/example_generations.md")
    assert page.read_text() == "\n".join(["bought: [forgotten]\n", answers[1]])
