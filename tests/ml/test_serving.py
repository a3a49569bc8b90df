"""What a night serves when models came and went: the index of its own encoder, and no list of a rolled back model."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from model_registries import TAGS, new_registry
from test_trials import core_of

from ml.errors import HemlineError
from ml.models.champions import rollback
from ml.night.carried import carried_rows
from ml.night.night_lists import writer_of
from ml.night.serving import serving_versions, shelf_vectors
from ml.night.shelf import Shelf
from ml.retrieval import TitleEncoder, VectorIndex
from ml.settings import IndexSettings, Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

SHELF = Shelf(["hat-1", "hat-2"], {"hat-1": "Sun hat", "hat-2": "Rain hat"})
SETTINGS = Settings.model_validate({"recommendations": {"k": 2, "mixup_n": 1}})
SCOPE = "Hats"


def listed(user, version, source="language_model"):
    row = {
        "user_id": user, "score": 1.0, "source": source, "part": "fusion", "listed_on": "2026-03-15",
        "model_version": version, "title_encoder_version": "1", "item_embeddings_version": "1", "ranker_version": None,
        "fitted_until": "2026-03-10", "model_from_future": False,
    }  # fmt: skip
    return [row | {"rank": rank, "item_id": f"hat-{rank}"} for rank in (1, 2)]


def histories(*users):
    step = {"event_time": datetime(2026, 3, 14, tzinfo=UTC), "event_id": "e", "action": "click", "item_id": "hat-1"}
    rows = [
        {"category": SCOPE, "user_id": user, "steps": [step], "item_steps": 1, "recent_events": 1} for user in users
    ]
    return pa.Table.from_pylist(rows, TABLES["user_histories"].schema)


@pytest.mark.parametrize(
    ("rolled_back", "carried"),
    [
        ({}, {"ann", "bob"}),
        ({"model_version": frozenset({"2"}), "ranker_version": frozenset({"1"})}, {"ann"}),
        ({"item_embeddings_version": frozenset({"1", "7"})}, set()),
    ],
)
def test_no_list_is_carried_that_a_rolled_back_model_made(rolled_back, carried):
    previous = pa.Table.from_pylist(
        [*listed("ann", "1"), *listed("bob", "2", "carried")], TABLES["recommendations"].schema
    )
    kept = carried_rows(previous, histories("ann", "bob"), SHELF, {"ann", "bob"}, SETTINGS, rolled_back)
    assert set(kept["user_id"].to_pylist()) == carried


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def serve(tmp_path):
    """A registry, and how to put the next version of a kind into use."""
    registry = new_registry(tmp_path)

    def add(kind, save, **tags):
        folder = tmp_path / f"{kind}-fitted"
        save(folder)
        with registry.run(kind, SCOPE, tags=TAGS, params={}) as run:
            version = run.register(folder, **tags)
        registry.promote(version)
        return version

    return registry, add


def encoder():
    texts = list(SHELF.titles.values())
    return TitleEncoder.untrained(texts, 300, dim=4, hidden=4, max_tokens=8)


def save_text(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter.json").write_text(text)


def test_a_night_serves_an_encoder_with_its_own_index_or_encodes_the_titles_itself(serve):
    registry, add = serve
    first, second = encoder(), encoder()
    add("adapter", lambda folder: save_text(folder, "{}"))
    add("item_embeddings", core_of({"hat-1": [1.0, 0.0], "hat-2": [0.0, 1.0]}).save)
    add("title_encoder", first.save)
    index = VectorIndex.build(SHELF.items, first.encode(list(SHELF.titles.values())), IndexSettings())
    add("title_index", index.save, title_encoder_version="1")
    add("title_encoder", second.save)  # and the run died before its index was made

    for own, has_index in ((second, False), (first, True)):
        versions = serving_versions(registry, SCOPE)
        models = versions.load()
        assert (models.title_index is not None) is has_index
        vectors = shelf_vectors(models.title_index, SHELF.items, models.titles.encode, SHELF)
        np.testing.assert_allclose(vectors, own.encode(list(SHELF.titles.values())), atol=1e-6)
        if not has_index:
            rollback(registry, "title_encoder", SCOPE)
    assert versions.rolled_back["title_encoder_version"] == {"2"} and not versions.rolled_back["model_version"]


def test_lists_name_the_adapter_that_wrote_the_answers_though_another_came_into_use(serve, tmp_path):
    registry, add = serve
    add("item_embeddings", core_of({"hat-1": [1.0, 0.0]}).save)
    add("title_encoder", encoder().save)
    for text in ("{}", "[]"):
        add("adapter", lambda folder, text=text: save_text(folder, text))
    warehouse = Warehouse(tmp_path / "warehouse")
    answer = {
        "user_id": "ann", "item_id": "hat-1", "title": "", "log_probability": -1.0, "parsed": True, "candidates": [],
        "prompt_hash": "h", "model_version": "1", "generated_on": "2026-03-16",
    }  # fmt: skip
    rows = pa.Table.from_pylist([answer], TABLES["generations"].schema)
    warehouse.publish("generations", rows, date="2026-03-16", category=SCOPE)
    writer = writer_of(warehouse, "2026-03-16", SCOPE)
    assert serving_versions(registry, SCOPE, writer).adapter.version == "1" != registry.used_version("adapter", SCOPE)
    assert writer_of(warehouse, "2026-03-15", SCOPE) is None
    assert serving_versions(registry, SCOPE, None).adapter.version == "2"


def test_a_night_without_a_model_names_it_and_what_to_run(serve):
    with pytest.raises(HemlineError, match=r"no adapter is promoted for 'Hats'.*hemline train"):
        serving_versions(serve[0], SCOPE)
