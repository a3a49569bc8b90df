"""Runs, registered versions and their files, on a real MLflow store."""

import json
import pickle
import threading

import numpy as np
import pyarrow as pa
import pytest

from ml.errors import BadInputError
from ml.models.registry import ModelRegistry
from ml.models.version import registered_name

TAGS = {
    "as_of": "2026-11-20",
    "fitted_until": "2026-11-18",
    "dagster_run_id": "d1",
    "code_version": "1",
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    home = tmp_path_factory.mktemp("home of mlflow")
    return ModelRegistry(f"sqlite:///{home}/db/mlflow.db", home / "mlflow-artifacts", home / "cache")


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "trained"
    (folder / "inner").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"dim": 3}))
    np.save(folder / "inner" / "weights.npy", np.arange(3.0))
    return folder


def register(registry, folder, scope, **tags):
    with registry.run("core", scope, tags=TAGS, params={"dim": 3}) as run:
        return run.register(folder, **tags)


def test_a_run_keeps_its_params_metrics_and_files(registry):
    import matplotlib.pyplot as plt

    params = {"nested": {"rate": 0.1, "deep": {"x": 1}}, "long": "x" * 9000, **{f"p{i}": i for i in range(150)}}
    with registry.run("adapter", "Clothing", tags=TAGS, params=params) as run:
        for step in range(450):
            run.metric("loss", 1 / (step + 1), step)
        run.metrics({"recall@10": 0.5, "bad": float("nan")})
        figure, _ = plt.subplots()
        run.figure(figure, "loss.png")
        plt.close(figure)
        run.text("# hello", "notes/examples.md")
        run.table(pa.table({"a": [1, 2]}), "tables/rows.csv")
    found = registry.client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert registry.client.get_experiment(found.info.experiment_id).name == "hemline"
    assert found.data.tags.items() >= {**TAGS, "kind": "adapter", "scope": "Clothing"}.items()
    assert found.data.params["nested.rate"] == "0.1" and found.data.params["nested.deep.x"] == "1"
    assert found.data.params["p149"] == "149"
    assert found.data.metrics["recall_at_10"] == 0.5
    history = registry.client.get_metric_history(run.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(s, 1 / (s + 1)) for s in range(450)]
    listed = {
        a.path for folder in (None, "notes", "tables") for a in registry.client.list_artifacts(run.run_id, folder)
    }
    assert {"loss.png", "notes/examples.md", "tables/rows.csv"} <= listed


def test_metrics_are_sent_in_batches(registry, monkeypatch):
    sent = []
    real = registry.client.log_batch

    def log_batch(run_id, **what):
        sent.append(len(what.get("metrics", ())))
        return real(run_id, **what)

    monkeypatch.setattr(registry.client, "log_batch", log_batch)
    with registry.run("adapter", "all", tags=TAGS, params={}) as run:
        for step in range(450):
            run.metric("loss", 1.0, step)
    assert sum(sent) == 450 and len(sent) <= 5


def test_a_run_that_raises_is_failed_and_keeps_its_metrics(registry):
    with pytest.raises(KeyError), registry.run("adapter", "Clothing", tags=TAGS, params={}) as run:
        run.metric("loss", 2.5, 7)
        raise KeyError("lost")
    found = registry.client.get_run(run.run_id)
    assert found.info.status == "FAILED" and found.info.end_time
    assert "KeyError" in found.data.tags["error"]
    assert found.data.metrics["loss"] == 2.5


def test_the_champion_is_what_was_promoted_last(registry, model_folder):
    scope = "Luggage & Bags"
    assert registry.champion("core", scope) is None
    first = register(registry, model_folder, scope, note="one")
    assert registry.champion("core", scope) is None, "registered is not promoted"
    registry.promote(first)
    second = register(registry, model_folder, scope)
    assert (first.version, second.version) == ("1", "2")
    assert registry.champion("core", scope).version == first.version
    registry.promote(second)
    champion = registry.champion("core", scope)
    assert (champion.version, champion.folder, champion.scope) == (second.version, second.folder, scope)
    assert champion.tags["promoted_over"] == "1" and champion.tags["promoted_at"]
    assert (champion.as_of, champion.fitted_until) == ("2026-11-20", "2026-11-18")
    assert first.tags["note"] == "one" and first.tags["dagster_run_id"] == "d1"
    again = registry.version("core", scope, "1")
    assert again.folder == first.folder and again.folder.is_dir() and again.tags["promoted_over"] == "none"
    np.testing.assert_array_equal(np.load(again.folder / "inner" / "weights.npy"), np.arange(3.0))
    assert registry.client.get_registered_model(registered_name("core", scope)).tags["scope"] == scope


def test_scopes_do_not_share_a_name():
    names = {registered_name("core", s) for s in ("a b", "a-b", "a/b", "a & b", "é", "ü")}
    assert len(names) == 6
    assert registered_name("adapter", "Footwear") == "hemline-adapter-Footwear"


def test_an_unknown_version_is_named(registry):
    with pytest.raises(BadInputError, match="no version 9 of model core for 'Nowhere'"):
        registry.version("core", "Nowhere", "9")


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "pytorch_model.bin", "x.joblib", "script.py"])
def test_files_that_could_run_code_are_refused(registry, model_folder, name):
    (model_folder / "inner" / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(BadInputError, match=name):
        register(registry, model_folder, "Refused")
    assert registry.champion("core", "Refused") is None
    with pytest.raises(BadInputError, match="no version 1"):
        registry.version("core", "Refused", "1")


def test_object_arrays_links_and_empty_folders_are_refused(registry, model_folder, tmp_path):
    np.save(model_folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInputError, match=r"objects\.npy"):
        register(registry, model_folder, "Refused")
    (model_folder / "objects.npy").unlink()
    (model_folder / "link.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BadInputError, match=r"link\.json"):
        register(registry, model_folder, "Refused")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="found none"):
        register(registry, tmp_path / "empty", "Refused")


def test_a_second_registry_on_the_same_store_sees_the_same(registry, model_folder, tmp_path):
    registry.promote(register(registry, model_folder, "Shared"))
    other = ModelRegistry(registry.tracking_uri, tmp_path / "ignored", tmp_path / "cache")
    assert other.experiment_id == registry.experiment_id
    assert other.champion("core", "Shared") == registry.champion("core", "Shared")


def test_remote_files_are_downloaded_once(registry, model_folder, monkeypatch):
    """A version whose source is no local path comes into the cache whole, also for readers that arrive together."""
    made = register(registry, model_folder, "Remote")
    name = registered_name("core", "Remote")
    found = registry.client.get_model_version(name, made.version)
    found._source = "mlflow-artifacts:/1/remote/model"
    downloads = []
    real = registry.client.download_artifacts

    def download(run_id, path, into):
        downloads.append(into)
        return real(run_id, path, into)

    monkeypatch.setattr(registry.client, "get_model_version", lambda *_: found)
    monkeypatch.setattr(registry.client, "download_artifacts", download)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(registry.version("core", "Remote", "1"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folders = {result.folder for result in results}
    assert len(results) == 3 and len(folders) == 1
    folder = folders.pop()
    assert json.loads((folder / "config.json").read_text()) == {"dim": 3}
    assert (folder / "inner" / "weights.npy").is_file()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name], "no half download is left"
    before = len(downloads)
    assert registry.version("core", "Remote", "1").folder == folder and len(downloads) == before
