"""`hemline demo`, made small: every stage, what it prints at the end, and that a second run does nothing twice."""

from datetime import date, timedelta

import pytest
import yaml
from rich.console import Console
from small_shop import save_language_model, save_text_encoder

from ml.errors import BadInputError
from ml.settings import SparkSettings
from ml.warehouse import Warehouse
from pipelines import demo
from pipelines.run import Runner
from pipelines.settings import load_settings

DAYS = 12
END = "2026-03-16"  # another day's shop has other customers, and few of so small a shop are asked


@pytest.fixture(scope="module")
def folder(spark, tmp_path_factory):
    """A demo folder whose settings name tiny models, and a small shop for the demo to simulate."""
    folder = tmp_path_factory.mktemp("demo")
    save_language_model(folder / "tiny-llama")
    save_text_encoder(folder / "tiny-bert")
    file = demo.demo_settings(folder, END)
    values = yaml.safe_load(file.read_text())
    assert values["profile"] == "demo" and "warehouse" in values
    small = {
        "start_date": (date.fromisoformat(END) - timedelta(days=DAYS - 1)).isoformat(),
        "memory": {"encoder": str(folder / "tiny-bert")},
        "language_model": {"base_model": str(folder / "tiny-llama"), "batch_size": 4, "hard_epochs": 1},
        "prompts": {"max_train": 8, "max_tokens": 600},
        "generation": {"max_users": 8, "max_new_tokens": 12, "beams": 3, "candidates": 5},
        "item_embeddings": {"epochs": 1, "dim": 16},
        "title_encoder": {"epochs": 1, "dim": 16, "hidden": 16},
        "recommendations": {"ranker": {"answered": 12, "epochs": 2}},
    }
    file.write_text(yaml.safe_dump({**values, **small}))
    return folder


def run(folder, monkeypatch):
    """Run the demo; return what it printed."""
    for name, value in {"CUSTOMERS": 80, "ITEMS": 60, "DAYS": DAYS}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "SparkSettings", lambda **_: SparkSettings(driver_memory="1g", shuffle_partitions=2))
    console = Console(record=True, width=150)
    demo.run_demo(console, folder, END)
    return console.export_text()


def test_the_demo_ends_with_lists_metrics_times_and_where_everything_is(folder, monkeypatch):
    text = run(folder, monkeypatch)
    settings = load_settings(folder / "hemline.yaml").settings
    for customer in demo.example_customers(Warehouse(settings.warehouse), "Clothing", END):
        assert f"{customer} · Clothing · {END}" in text
    assert text.count("recommended (language_model)") >= 1 and " 10 " in text
    for system in ("ours", "popularity", "markov", "item_knn", "core"):
        assert system in text
    for stage in ("simulate a shop", "train", f"nightly {END}", "evaluate", "total"):
        assert stage in text
    for place in (settings.warehouse, settings.report / "index.html", "make ui", "hemline show USER --settings "):
        assert str(place) in text.replace("\n", ""), place
    assert (settings.report / "index.html").is_file()
    with Runner(settings).instance() as instance:
        runs = instance.get_runs()
    assert runs and all(one.is_success for one in runs)

    again = run(folder, monkeypatch)
    assert again.count("(done before)") >= 5
    with Runner(settings).instance() as instance:
        assert len(instance.get_runs()) == len(runs), "nothing was run twice"


def test_a_demo_of_another_day_needs_another_folder(tmp_path):
    yesterday = date.today() - timedelta(days=1)
    begins = yaml.safe_load(demo.demo_settings(tmp_path).read_text())["start_date"]
    assert date.fromisoformat(begins) + timedelta(days=demo.DAYS - 1) == yesterday
    with pytest.raises(BadInputError, match=r"ends on .*, not on 2020-02-29; choose another --folder"):
        demo.run_demo(Console(), tmp_path, "2020-02-29")
    assert [path.name for path in tmp_path.iterdir()] == ["hemline.yaml"]
