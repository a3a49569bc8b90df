"""`kill -9` while a customer is forgotten, at several points, and the same call again: nothing is left of them."""

import json
import signal
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from model_registries import TAGS, new_registry
from people_scan import findings

from ml.errors import BadInputError
from ml.people.forgetting import audit_records, forget
from ml.people.suppression import Suppression, suppression_of
from ml.registry import ModelRegistry
from ml.settings import Settings, SparkSettings
from ml.spark import SparkSource
from ml.tables import TABLES
from ml.warehouse import Warehouse

ROOT = Path(__file__).parents[2]
CANARY, OTHER = "canary-4711", "somebody-else"
DAYS = ["2026-03-01", "2026-03-02"]
CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from tests.ml.test_people_kills import CANARY, forget_in
home, point, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
seen = []

def die(reached):
    seen.append(reached)
    if seen.count(point) == number:
        os.kill(os.getpid(), signal.SIGKILL)

forget_in(home, [CANARY], die)
"""


def table(name, rows):
    schema = TABLES[name].schema
    return pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in rows], schema)


def made(folder):
    """A shop of two customers with a row of each in what is made of events."""
    warehouse = Warehouse(folder / "warehouse", grace_seconds=0)
    splits = {"temporal_split": "train", "leave_one_out_split": "train"}
    times = {day: datetime.fromisoformat(day).replace(hour=9, tzinfo=UTC) for day in DAYS}
    users = (CANARY, OTHER)
    for day in DAYS:
        event = {"event_time": times[day], "action": "purchase", "item_id": "i", "category": "Hats"}
        own = [{**event, "event_id": f"{user}-{day}", "user_id": user, "session_id": f"visit-{user}"} for user in users]
        warehouse.publish("interactions", table("interactions", own), date=day)
        broken = [{"event_id": f"bad-{user}", "reason": "unknown action", "source_file": "f",
                   "row": json.dumps({"user_id": user, "event_id": f"bad-{user}"})} for user in users]  # fmt: skip
        warehouse.publish("rejected_interactions", table("rejected_interactions", broken), date=day)
        lists = [{"user_id": user, "rank": 1, "item_id": "i", "score": 1.0, "source": "popular", "part": "popular",
                  "listed_on": day, "model_from_future": False} for user in users]  # fmt: skip
        warehouse.publish("recommendations", table("recommendations", lists), date=day, category="Hats")
    examples = [{"example_id": f"{user}-{DAYS[1]}", "user_id": user, "target_item": "i", "target_time": times[DAYS[1]],
                 "target_date": date.fromisoformat(DAYS[1]), "steps": [], "item_steps": 0, "eligible": True, **splits}
                for user in users]  # fmt: skip
    warehouse.publish("training_sequences", table("training_sequences", examples), category="Hats")
    kept = [{"example_id": f"{user}-{DAYS[1]}", "variant": "all", "perplexity": 2.0, "trained_longer": False}
            for user in users]  # fmt: skip
    warehouse.publish("prompt_perplexity", table("prompt_perplexity", kept), category="Hats")
    registry = new_registry(folder)
    with registry.run("adapter", "Hats", tags=TAGS, params={}) as run:
        run.table(table("prompt_perplexity", kept), "prompt_perplexity.json")
    return warehouse


def forget_in(folder, users, on_point=lambda point: None):
    """Forget customers of the shop in `folder`, which keeps no records of an orchestrator."""
    settings = Settings(home=folder, warehouse=folder / "warehouse", report=folder / "report", categories=["Hats"])
    warehouse = Warehouse(settings.warehouse, grace_seconds=0, on_point=on_point)
    registry = ModelRegistry(f"sqlite:///{folder}/mlflow.db", folder / "artifacts", folder / "cache")
    spark = SparkSource(SparkSettings())
    return forget(settings, warehouse, registry, spark, users, {"Hats": ["Hats"]}, lambda scrub: {})


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
