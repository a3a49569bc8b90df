"""`hemline rollback` and `hemline lineage` over hand-made nights: what they say and move, and how they say no."""

import shutil
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import yaml
from model_registries import empty_store, register
from test_cli import hemline, own_environment  # noqa: F401  (a fixture)

from ml.tables import TABLES
from ml.warehouse import Warehouse
from pipelines.resources import model_registry
from pipelines.settings import load_settings

EVE, DAY = "2026-03-15", "2026-03-16"
TITLE = "[bold]Hat[/bold] :smile: [link=http://x]y"
QUERY = "[red]sun hat"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A settings file whose warehouse and MLflow store hold two nights of one category, by two adapters."""
    folder = tmp_path_factory.mktemp("shop")
    file = folder / "hemline.yaml"
    values = {"warehouse": "warehouse", "home": "home", "categories": ["Hats", "Coats"]}
    file.write_text(yaml.safe_dump(values))
    (folder / "home").mkdir()
    shutil.copy(empty_store(), folder / "home" / "mlflow.db")
    registry = model_registry(load_settings(file, environment={}).settings)
    for kind, count in {"adapter": 2, "title_encoder": 1, "item_embeddings": 3, "ranker": 2}.items():
        for number in range(count):
            scores = [float(number)]
            registry.promote(register(registry, folder / "fitted", scores, kind, "Hats", promotion_reason="[why]"))
    registry.promote(register(registry, folder / "fitted", [1.0], "item_embeddings", "Coats"))
    publish(Warehouse(folder / "warehouse"))
    return file


def publish(warehouse):
    """Two nights: ann is answered on the last, bob's list of the first is carried, cy has the popular items."""
    warehouse.publish("user_histories", histories("ann", "bob"), date=EVE)
    warehouse.publish("user_histories", histories("ann", "bob", "cy"), date=DAY)
    warehouse.publish("generations", answers("bob", "1", EVE), date=EVE, category="Hats")
    warehouse.publish("generations", answers("ann", "2", DAY), date=DAY, category="Hats")
    rows = [
        *listed("ann", "language_model", DAY, "2"), *listed("bob", "carried", EVE, "1"),
        *listed("cy", "popular", DAY, None),
    ]  # fmt: skip
    schema = TABLES["recommendations"].schema
    warehouse.publish("recommendations", pa.Table.from_pylist(rows, schema), date=DAY, category="Hats")
    warehouse.publish("recommendations", schema.empty_table(), date=DAY, category="Coats")


def histories(*users):
    step = {"event_id": "e", "item_id": None, "query": None, "position": None}
    steps = [
        step | {"event_time": datetime(2026, 3, 12, tzinfo=UTC), "action": "click", "item_id": "hat-1"},
        step | {"event_time": datetime(2026, 3, 14, tzinfo=UTC), "action": "search", "query": QUERY},
    ]
    rows = [
        {"category": "Hats", "user_id": user, "steps": steps, "item_steps": 1, "recent_events": 2}
        for user in users if user != "cy"
    ]  # fmt: skip
    rows += [{"category": "Coats", "user_id": user, "steps": [], "item_steps": 0, "recent_events": 2} for user in users]
    return pa.Table.from_pylist(rows, TABLES["user_histories"].schema)


def answers(user, version, day):
    row = {
        "user_id": user, "item_id": "hat-1", "title": TITLE, "log_probability": -1.0, "parsed": True, "candidates": [],
        "prompt_hash": f"hash-{user}", "model_version": version, "generated_on": day,
    }  # fmt: skip
    return pa.Table.from_pylist([row], TABLES["generations"].schema)


def listed(user, source, day, adapter):
    known = adapter is not None
    row = {
        "user_id": user, "score": 1.0, "source": source, "part": "fusion" if known else "popular", "listed_on": day,
        "model_version": adapter, "title_encoder_version": "1" if known else None,
        "item_embeddings_version": "9" if known else None, "ranker_version": None,
        "fitted_until": "2026-03-10" if known else None, "model_from_future": False,
    }  # fmt: skip
    return [row | {"rank": rank, "item_id": f"hat-{rank}"} for rank in (1, 2)]


def lines(said):
    """The rows of the printed table by their name; a cell that goes over several lines is joined."""
    found, name = {}, ""
    for text in said.splitlines():
        if text.startswith("│"):
            first, value = (cell.strip() for cell in text.strip("│").split("│"))
            name = first or name
            found[name] = f"{found[name]} {value}" if name in found else value
    return found


def test_lineage_says_events_memory_answer_and_models_and_prints_text_as_it_is(shop):
    said = hemline("lineage", "ann", DAY, "--settings", shop)
    assert f"ann · Hats · {DAY}" in said and "Coats" not in said
    line = lines(said)
    assert line["list"] == "language_model: 2 by fusion"
    assert line["events"] == f"2 steps (1 clicks and purchases) up to {DAY}, the newest on 2026-03-14, 2026-03-12"
    assert line["search"] == f"{QUERY!r}, with the memory as of {DAY}"
    assert line["answer"] == f"hat-1 | {TITLE}, by adapter 2 on {DAY}, prompt hash-ann"
    registry = model_registry(load_settings(shop, environment={}).settings)
    run_id = registry.version("adapter", "Hats", "2").run_id
    adapter = (
        "version 2 of 'Hats', in use; fitted until 2026-11-18, MLflow run {}, Dagster run d1, code 1; promoted: [why]"
    )
    assert line["adapter"] == adapter.format(run_id)
    assert line["item_embeddings"] == "version 9 of 'Hats', registered no more"
    assert line["table"] == f"Dagster has no record of the run that made {DAY}"
    assert "ranker" not in line


def test_lineage_of_a_carried_list_is_that_of_the_night_it_was_made(shop):
    line = lines(hemline("lineage", "bob", DAY, "--category", "Hats", "--settings", shop))
    assert line["list"] == f"carried: 2 by fusion; made on {EVE} and carried since"
    assert f"up to {EVE}" in line["events"] and f"memory as of {EVE}" in line["search"]
    assert "by adapter 1" in line["answer"] and line["adapter"].startswith(
        "version 1 of 'Hats', no longer in use (now 2)"
    )
    assert EVE in line["table"]


def test_lineage_of_a_popular_list_names_no_model(shop):
    line = lines(hemline("lineage", "cy", DAY, "--settings", shop))
    assert line["list"] == "popular: 2 by popular" and line["events"].startswith("0 steps")
    assert line["search"] == "none among the steps" and line["answer"] == "the language model was not asked"
    assert not {"adapter", "title_encoder", "item_embeddings", "ranker"} & set(line)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nobody", DAY), ["nobody", "in no list of", DAY, "Hats, Coats"]),
        (("ann", DAY, "--category", "Coats"), ["ann", "in no list of", "Coats"]),
        (("[red]nobody", DAY), ["[red]nobody"]),
        (("ann", "2001-01-01"), ["2001-01-01", "no recommendations", DAY]),
        (("ann", "yesterday"), ["DATE", "yesterday", "2026-11-20"]),
        (("ann", DAY, "--category", "Shoes"), ["Shoes", "Hats"]),
    ],
)
def test_lineage_of_what_is_not_there_is_a_plain_error(shop, arguments, words):
    said = hemline("lineage", *arguments, "--settings", shop, code=1)
    for word in words:
        assert word in said
    assert "Traceback" not in said


def test_lineage_before_the_first_night_says_what_to_run(tmp_path):
    assert "hemline nightly" in hemline("lineage", "someone", DAY, code=1)


@pytest.fixture
def copied(shop, tmp_path):
    """A copy whose aliases may be moved."""
    shutil.copytree(shop.parent, tmp_path / "copy")
    return tmp_path / "copy" / "hemline.yaml"


def used(file, kind, scope="Hats"):
    return model_registry(load_settings(file, environment={}).settings).used_version(kind, scope)


def test_rollback_moves_one_model_back_at_a_time_and_says_so(copied):
    said = hemline("rollback", "item_embeddings", "--category", "Hats", "--settings", copied)
    assert "item_embeddings of Hats: version 3 → 2" in said and "ranker was fitted beside" in said
    assert "version 2 → 1" in hemline("rollback", "item_embeddings", "--category", "Hats", "--settings", copied)
    assert used(copied, "item_embeddings") == "1" and used(copied, "item_embeddings", "Coats") == "1"
    said = hemline("rollback", "item_embeddings", "--category", "Hats", "--settings", copied, code=1)
    assert "no version that was in use before it is recorded" in said and used(copied, "item_embeddings") == "1"
    assert "ranker was fitted" not in hemline("rollback", "ranker", "--category", "Hats", "--settings", copied)


def test_lineage_says_that_a_version_was_rolled_back(copied):
    hemline("rollback", "adapter", "--category", "Hats", "--settings", copied)
    line = lines(hemline("lineage", "ann", DAY, "--settings", copied))
    assert line["adapter"].startswith("version 2 of 'Hats', rolled back 20")


def test_rollback_of_all_categories_moves_all_of_them_or_none(copied):
    said = hemline("rollback", "item_embeddings", "--settings", copied, code=1)
    assert "item_embeddings 1 for 'Coats'" in said
    assert used(copied, "item_embeddings") == "3", "Hats could have been rolled back, and was not"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hats",), ["'hats'", "adapter", "ranker"]),
        (("id_index", "--category", "Hats"), ["follows item_embeddings"]),
        (("ranker", "--category", "Shoes"), ["Shoes", "Hats"]),
        (("title_encoder", "--category", "Hats"), ["title_encoder 1", "none to go back to"]),
    ],
)
def test_a_rollback_that_cannot_be_is_a_plain_error_and_moves_nothing(shop, arguments, words):
    said = hemline("rollback", *arguments, "--settings", shop, code=1)
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert [used(shop, kind) for kind in ("adapter", "title_encoder", "item_embeddings", "ranker")] == [
        "2",
        "1",
        "3",
        "2",
    ]
