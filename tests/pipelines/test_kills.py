"""`kill -9` in the middle of a command, and the command again: the tables and models of one that was never killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_shop import AS_OF, CATEGORIES, DAYS, EVE, LAST, Shop

from ml.language_model.checkpoints import newest_complete
from ml.tables import TABLES
from pipelines import flows
from pipelines.jobs import SELECTIONS
from pipelines.resources import model_registry
from pipelines.run import Runner

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def die_publishing(table, number):
    import ml.warehouse.local_store as warehouse
    put, seen = warehouse.put_in_place, []
    def patched(new, target):
        seen.extend([target] if f"/{{table}}/" in str(target) else [])
        existed = put(new, target)
        if len(seen) == number:
            die()
        return existed
    warehouse.put_in_place = patched

folder, command, day, point = sys.argv[1:]
if point == "a chunk is written":
    import ml.generation.chunks as chunks
    write = chunks._write
    chunks._write = lambda path, answers: (write(path, answers), die())
elif point == "recommendations are staged":
    import ml.night.promises as promises
    assert callable(promises.check_promises)
    promises.check_promises = die  # the first partition is staged, nothing of it is visible
elif point == "a checkpoint is complete":
    import ml.language_model.trainer as trainer
    mark = trainer.mark_complete
    trainer.mark_complete = lambda *arguments: (mark(*arguments), die())
elif point == "three days are published":
    die_publishing("interactions", 3)
elif point == "the first lists are published":
    die_publishing("recommendations", 1)
else:
    sys.exit(f"no such point: {{point}}")

from small_shop import Shop
from pipelines import flows
from pipelines.run import Runner
getattr(flows, command)(Runner(Shop(Path(folder)).settings), day)
"""
READER = """
import json, sys, time
from pathlib import Path
import duckdb

query, stop = sys.argv[1], Path(sys.argv[2])
seen, loud, end = {}, {}, time.monotonic() + 900
while time.monotonic() < end:
    time.sleep(0.2)  # a reader that never rests takes a core from the night it looks at
    last = stop.exists()
    try:
        answer = json.dumps(duckdb.sql(query).fetchall())
    except Exception as error:
        kind = type(error).__name__
        loud[kind] = loud.get(kind, 0) + 1
        continue
    if not seen:
        print("ready", flush=True)
    seen[answer] = seen.get(answer, 0) + 1
    if last:
        break
print(json.dumps([seen, loud]))
"""


def kill(shop, command, day, point):
    """Run a command in a process of its own, which kills itself at the point."""
    script = KILLED.format(tests=str(ROOT / "tests"))
    child = subprocess.run(
        [sys.executable, "-c", script, str(shop.folder), command, day, point], cwd=ROOT, capture_output=True, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr


def content(shop):
    """Every published row of the last day, whatever the files are called."""
    tables = ["interactions", "user_histories", "realised"]
    made = {name: shop.rows(name, date=LAST) for name in tables}
    for table in ("generations", "recommendations"):
        made[table] = [
            (category, row)
            for category in shop.warehouse.level_values(table, "category", date=LAST)
            for row in shop.rows(table, date=LAST, category=category)
        ]
    return made


@pytest.fixture
def untrained(eve_shop, tmp_path):
    """The small shop before anything was made of it, with a checkpoint every second step."""
    shop = Shop(tmp_path / "untrained")
    shutil.copytree(eve_shop.folder / "raw", shop.folder / "raw")
    shutil.copy(eve_shop.file, shop.file)
    return shop.change(language_model={**eve_shop.settings.language_model.model_dump(mode="json"), "save_steps": 2})


def fitted_tables(shop):
    """What `train` published, by file names, which are hashes of the rows' bytes."""
    days = {f"date={day}" for day in DAYS if day <= AS_OF}
    tables = ["item_codes", "training_sequences", "query_title_pairs", "prompts", "prompt_perplexity"]
    names = set(shop.published(*tables))
    return names | {name for name in shop.published(*SELECTIONS["ingest"]) if name.split("/")[1] in days}


def weights(shop):
    """The registered weights in use, byte for byte."""
    registry = model_registry(shop.settings)
    return {
        (kind, scope): registry.champion(kind, scope).folder.joinpath(name).read_bytes()
        for kind, name in [
            ("adapter", "adapter_model.safetensors"),
            ("title_encoder", "title_encoder.safetensors"),
            ("item_embeddings", "core.safetensors"),
        ]
        for scope in ("Clothing", "all")
    }


def test_a_training_killed_twice_and_run_again_ends_in_the_same_models_and_tables(eve_shop, untrained):
    kill(untrained, "train", AS_OF, "three days are published")
    assert untrained.warehouse.days("interactions") == DAYS[:3]
    assert untrained.warehouse.days("query_daily") == []
    kill(untrained, "train", AS_OF, "a checkpoint is complete")
    phase = untrained.folder / ".hemline" / "work" / "adapter" / "Clothing" / "epochs"
    assert newest_complete(phase).name == "checkpoint-2"
    registry = model_registry(untrained.settings)
    assert registry.champion("adapter", "Clothing") is None

    flows.train(Runner(untrained.settings), AS_OF)
    assert fitted_tables(untrained) == fitted_tables(eve_shop)
    assert weights(untrained) == weights(eve_shop)
    run = registry.champion("adapter", "Clothing").run_id
    assert min(point.step for point in registry.client.get_metric_history(run, "loss")) == 3, "it went on"
    work = untrained.folder / ".hemline" / "work" / "adapter"
    assert not list(work.rglob("checkpoint-*")) and not list(work.rglob(".*.tmp"))
    assert list(untrained.folder.glob("warehouse/_staging/[!_]*/*")) == []


def query(shop):
    """The README's glob: rows and a hash of their content, by partition."""
    return f"""
        SELECT date::VARCHAR, category::VARCHAR, count(*), sum(hash(user_id, rank, item_id, score, source))::VARCHAR
        FROM read_parquet(
            '{shop.folder}/warehouse/recommendations/date=*/category=*/*.parquet', hive_partitioning = true)
        GROUP BY ALL ORDER BY ALL
    """


def signatures(shop):
    """What the query says of each partition: date and category → rows and hash."""
    import duckdb

    return {tuple(row[:2]): tuple(row[2:]) for row in duckdb.sql(query(shop)).fetchall()}


@contextmanager
def reader_of(shop, stop):
    """A reader of the lists in a loop, in a process of its own; what it saw of them, and its errors by name."""
    seen = []
    process = subprocess.Popen(
        [sys.executable, "-c", READER, query(shop), str(stop)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        yield seen
    finally:
        stop.touch()
        out, err = process.communicate(timeout=120)
    seen += json.loads(out) if out else [{}, {}]
    assert seen[0], err


def test_a_night_killed_at_three_points_ends_in_the_same_tables_and_its_reader_sees_no_mixture(
    eve_shop, shop, tmp_path
):
    broken = eve_shop.copy(tmp_path / "broken")
    for category in CATEGORIES[:3]:  # an earlier table of the night, which the reader sees replaced
        rows = broken.warehouse.read("recommendations", TABLES["recommendations"].names, date=EVE, category=category)
        broken.warehouse.publish("recommendations", rows.slice(1), checks=(), date=LAST, category=category)
    chunks = broken.folder / ".hemline" / "work" / "generations"
    earlier, old = set(chunks.rglob("*.parquet")), signatures(broken)
    with reader_of(broken, tmp_path / "stop") as seen:
        kill(broken, "nightly", LAST, "a chunk is written")
        (kept,) = set(chunks.rglob("*.parquet")) - earlier
        written = kept.stat().st_mtime_ns
        kill(broken, "nightly", LAST, "recommendations are staged")
        assert kept.stat().st_mtime_ns == written, "the finished chunk was used, not made again"
        assert signatures(broken) == old
        kill(broken, "nightly", LAST, "the first lists are published")
        half = signatures(broken)
        assert [part for part in old if half[part] != old[part]] == [(LAST, "Clothing")]
        flows.nightly(Runner(broken.settings), LAST)
    assert content(broken) == content(shop)
    assert set(broken.published()) == {name for name in shop.published() if not name.startswith("evaluation_")}
    with Runner(broken.settings).instance() as instance:
        assert instance.get_runs(limit=1)[0].is_success
    new = signatures(broken)
    assert half[LAST, "Clothing"] == new[LAST, "Clothing"], "the killed night's lists are the finished night's"
    only_old_or_new_was_seen(seen, old, new)


def only_old_or_new_was_seen(seen, old, new):
    answers, loud = seen
    for answer in answers:
        parts = {tuple(row[:2]): tuple(row[2:]) for row in json.loads(answer)}
        assert set(parts) == set(old), "no partition is ever missing"
        for part, found in parts.items():
            assert found in (old[part], new[part]), part
    replaced = [part for part in old if old[part] != new[part]]
    versions = {sum(tuple(row[2:]) == new[tuple(row[:2])] for row in json.loads(answer)) for answer in answers}
    assert len(replaced) == 3 and len(versions) >= 3, "it looked before, between and after"
    assert set(loud) <= {"IOException"}, "a file that is gone, said loudly"
