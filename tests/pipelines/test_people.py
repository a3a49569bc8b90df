"""`hemline forget` on the small shop: a customer who is everywhere is nowhere, and stays away."""

import io
import json
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus
from dagster_shared.error import SerializableErrorInfo
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from people_scan import findings
from rich.console import Console
from small_shop import LAST, Shop, event, write_events
from test_cli import hemline, own_environment  # noqa: F401  (a fixture)

from ml.people.scrub import Scrub
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse
from pipelines import flows
from pipelines.people import forget_customers, print_forgotten, scrub_records
from pipelines.resources import model_registry
from pipelines.run import Runner, dagster_home

CANARY = "U0000047"
QUERY = "kakapo jumper ünïque"
PLACES = [
    *("interactions", "rejected_interactions", "query_daily", "query_vectors", "query_memory", "training_sequences"),
    *("prompts", "prompt_perplexity", "query_title_pairs", "user_histories", "generations", "recommendations"),
    *("evaluation_ranks", "history/runs/", "compute_logs", "mlflow.db", "prompt_perplexity.json"),
    *("work/evaluation", "_staging/recommendations", "report/index.html"),
]
"""Where the canary is before: a scan that does not find it there proves nothing."""


def own_copy(shop, eve_shop, folder):
    """A copy of the shop whose models and MLflow artifacts are its own too."""
    shutil.copytree(shop.folder, folder, ignore=shutil.ignore_patterns("_locks"))
    artifacts = eve_shop.folder / ".hemline" / "mlflow-artifacts"
    with closing(sqlite3.connect(folder / ".hemline" / "mlflow.db")) as database:
        others_runs = {path.name for path in artifacts.iterdir() if len(path.name) == 32}
        others_runs -= {run for (run,) in database.execute("SELECT run_uuid FROM runs")}
    # Other tests' copies of the shop leave their runs' artifacts there too.
    shutil.copytree(artifacts, folder / ".hemline" / "mlflow-artifacts", ignore=shutil.ignore_patterns(*others_runs))
    places = {"runs": ["artifact_uri"], "experiments": ["artifact_location"],
              "model_versions": ["source", "storage_location"]}  # fmt: skip
    with closing(sqlite3.connect(folder / ".hemline" / "mlflow.db")) as database, database:
        for table, columns in places.items():
            for column in columns:
                database.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                    (artifacts.as_uri(), (folder / ".hemline" / "mlflow-artifacts").as_uri()),
                )
    _artifact_repos_cache.clear()  # this process knows the runs' artifacts where they were
    return Shop(folder)


def plant(shop):
    """Let the canary search for what nobody else does, break the contract, and stand in logs and a failed run."""
    item = next(row["item_id"] for row in shop.rows("interactions") if row["user_id"] == CANARY and row["item_id"])
    own = {"user_id": CANARY, "session_id": "canary-visit"}
    led = {**own, "item_id": item, "query": QUERY, "position": 1}
    write_events(shop, LAST, [
        event("canary-search", LAST, **own, action="search", item_id=None, query=QUERY),
        event("canary-click", LAST, **led, minute=1),
        event("canary-bought", LAST, **led, action="purchase", minute=2),
        event("canary-stare", LAST, **led, action="stare", minute=3),
    ], "canary.parquet")  # fmt: skip
    whole = {"event_id": "canary-json", "user_id": CANARY, "event_time": f"{LAST}T12:04:00Z", "action": "click"}
    lines = [json.dumps({**whole, "item_id": item}), f'{{"event_id": "canary-line", "user_id": "{CANARY}", "action"']
    (shop.raw(LAST) / "lines.jsonl").write_text("\n".join(lines) + "\n")
    flows.nightly(Runner(shop.settings), LAST)
    with Runner(shop.settings).instance() as instance:
        run = instance.get_runs(limit=1)[0]
        instance.report_engine_event(f"customer {CANARY}: event canary-click, search {QUERY!r}", run)
    log = next((shop.folder / ".hemline" / "dagster").rglob("*.err"))
    log.write_text(f"{log.read_text()}\ncustomer {CANARY} asked for '{QUERY}'\n")
    page = flows.report(shop.settings)
    page.write_text(f"{page.read_text()}<p>{CANARY} asked for {QUERY}</p>")
    registry = model_registry(shop.settings)
    with pytest.raises(ValueError), registry.run("ranker", "Clothing", tags={}, params={}):
        raise ValueError(f"example canary-bought of {CANARY} is odd")
    killed = shop.folder / "warehouse" / "_staging" / "recommendations" / "1-1-dead" / "partition"
    killed.mkdir(parents=True)
    lists = Path(shop.warehouse.location("recommendations", date=LAST, category="Clothing"))
    shutil.copy(next(lists.glob("*.parquet")), killed)
    return shop


@pytest.fixture(scope="module")
def canary_shop(shop, eve_shop, tmp_path_factory):
    """The small shop with its canary."""
    return plant(own_copy(shop, eve_shop, tmp_path_factory.mktemp("people") / "shop"))


def scan(shop, events=()):
    """Where the canary is, the shop's own raw log left out."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shop.settings.language_model.base_model)
    words = {CANARY, QUERY, "kakapo", "canary-", *events}
    return findings(shop.folder, words, tokenizer.decode, [shop.folder / "raw"])


def others(shop):
    """Every row of the other customers, by table."""
    return {
        name: [row for row in shop.rows(name) if row["user_id"] != CANARY]
        for name, table in TABLES.items() if "user_id" in table.names
    }  # fmt: skip


def test_a_forgotten_customer_is_nowhere_and_the_next_night_does_not_bring_them_back(canary_shop):
    shop, settings = canary_shop, canary_shop.settings
    events = {row["event_id"] for row in shop.rows("interactions") if row["user_id"] == CANARY}
    examples = {row["example_id"] for row in shop.rows("training_sequences") if row["user_id"] == CANARY}
    assert len(events) > 50 and examples
    before, kept = scan(shop, events), others(shop)
    missed = [place for place in PLACES if not any(place in name for name in before)]
    assert not missed, f"the scan does not find the canary in {missed}"
    assert any(QUERY in words for name, words in before.items() if "/prompts/" in name or "/query_daily/" in name)

    at_once = Warehouse(settings.warehouse, grace_seconds=0)  # no reader needs time to let go of an old version
    done = forget_customers(settings, [CANARY], Console(quiet=True), at_once)
    assert scan(shop, events) == {}
    assert others(shop) == kept
    assert {(model.kind, model.scope) for model in done.models} >= {
        ("adapter", "Clothing"),
        ("item_embeddings", "Clothing"),
    }
    registry = model_registry(settings)
    for model in done.models:
        assert registry.tags_of(model.kind, model.scope, model.version)["retrain_by"] == model.retrain_by
    assert LAST in done.raw_days
    said = Console(file=io.StringIO(), record=True, width=200)
    print_forgotten(said, settings, done)
    assert "is the shop's and was not touched" in said.export_text() and CANARY not in said.export_text()
    records = [json.loads(line) for line in (settings.home / "people" / "audit.jsonl").read_text().splitlines()]
    assert [record["event"] for record in records] == ["begun", "done"]
    assert records[-1]["removed"]["interactions"] and records[-1]["models"]

    flows.nightly(Runner(settings), LAST)
    assert scan(shop, events) == {}, "the raw log still has them, and ingestion leaves them out"
    assert shop.rows("recommendations", date=LAST)

    assert "to be replaced by" in hemline("forget", "--settings", shop.file)


def delete_from(path):
    """Leave a deleted row of the canary in a database's free pages, as SQLite does where it is not told otherwise."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA secure_delete=OFF")
        with database:
            database.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, t TEXT)")
            database.executemany("INSERT INTO a (t) VALUES (?)", [(f"{CANARY} " * 200,)] * 50)
        with database:
            database.execute("DELETE FROM a")
    assert CANARY.encode() in path.read_bytes()


def test_dagster_s_records_and_logs_are_scrubbed_wherever_words_stand_and_what_was_deleted_goes(tmp_path):
    settings = Settings(home=tmp_path)
    home = dagster_home(settings)
    for path in (home / "some.db", settings.home / "mlflow.db"):
        delete_from(path)
    said = {"text": f"row of {CANARY}", "json": dg.MetadataValue.json({"who": [CANARY]}),
            "table": dg.MetadataValue.md(f"| {CANARY} |")}  # fmt: skip
    error = SerializableErrorInfo(f"event of {CANARY}\n", [f"  at {CANARY}\n"], "ValueError")
    skip = TickData("o", "late", InstigatorType.SENSOR, TickStatus.SKIPPED, time.time(), skip_reason=f"as {CANARY}")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        note = dg.AssetMaterialization("recommendations", description=f"lists but {CANARY}'s", metadata=said)
        instance.report_runless_asset_event(note)
        instance.create_tick(skip)
        instance.create_tick(skip._replace(status=TickStatus.FAILURE, skip_reason=None, error=error))
    logs = [home / f"some{kind}" for kind in (".out", ".err", ".log", ".txt")]
    for log in logs:
        log.write_text(f"{CANARY} was seen\n")
    busy = []
    done = scrub_records(settings, busy, Scrub([CANARY]))
    assert done["dagster records"] >= 3 and done["dagster logs"] == len(logs) and not busy
    assert findings(tmp_path, [CANARY]) == {}
    assert {log.read_text() for log in logs} == {"[forgotten] was seen\n"}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        kept = instance.fetch_materializations(dg.AssetKey("recommendations"), 1).records[0].asset_materialization
        assert kept.metadata["text"].value == "row of [forgotten]" and kept.description == "lists but [forgotten]'s"
