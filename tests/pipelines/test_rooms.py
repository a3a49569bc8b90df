"""The house: imports go one way, the code location is light, and the graph is what the design says."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ml.settings import Settings
from pipelines.build import build_definitions

ROOT = Path(__file__).parents[2]
MAY_NOT = {"ml": {"assets", "pipelines", "dagster"}, "assets": {"pipelines"}}
HEAVY = ["torch", "transformers", "pyspark", "mlflow", "faiss", "sentence_transformers", "duckdb", "matplotlib"]


def imported(path):
    """The top-level packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("room", MAY_NOT)
def test_imports_go_one_way(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        assert not set(imported(path)) & MAY_NOT[room], path


def test_the_code_location_loads_nothing_heavy(tmp_path):
    code = (
        "import json, sys, pipelines.definitions as d; d.defs.resolve_all_job_defs();"
        f"print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    environment = {"PATH": "/usr/bin:/bin", "HEMLINE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout.splitlines()[-1]) == []


SEQUENCES = ["query_title_pairs", "training_sequences"]
FITS = [
    "adapter", "id_index", "item_embeddings", "prompt_perplexity", "prompts", "ranker", "title_encoder", "title_index",
]  # fmt: skip
GRAPH = {
    "ingest": {"day": ["interactions", "query_daily", "rejected_interactions"]},
    "nightly": {
        "": ["base_model", "catalog", "item_codes", "query_memory", "query_vectors"],
        "day": [
            "generations", "interactions", "night_health", "query_daily", "realised", "recommendations",
            "rejected_interactions", "user_histories",
        ],
    },
    "prepare": {"": ["base_model", "catalog", "item_codes", "query_vectors"]},
    "sequences": {"model": SEQUENCES},
    "fit": {"model": FITS},
    "train": {"model": sorted(SEQUENCES + FITS)},
    "evaluate": {
        "model": [
            "evaluation_breakdowns", "evaluation_costs", "evaluation_differences", "evaluation_lists",
            "evaluation_metrics", "evaluation_ranks",
        ]
    },
    "experiment": {"experiment": ["experiment_metrics", "experiment_ranks"]},
    "health": {},
    "clean": {},
}  # fmt: skip


def test_jobs_hold_these_assets_with_these_partitions(tmp_path):
    settings = Settings(
        home=tmp_path / "home", warehouse=tmp_path, categories=["Hats", "Coats"], start_date="2026-01-01"
    )
    definitions = build_definitions(settings)
    graph = definitions.resolve_asset_graph()
    nodes = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    kinds = {None: "", "DailyPartitionsDefinition": "day", "StaticPartitionsDefinition": "model"}
    found = {}
    for name in GRAPH:
        selected = definitions.resolve_job_def(name).asset_layer.selected_asset_keys
        found[name] = {}
        for key in sorted(key.to_user_string() for key in selected):
            partitions = nodes[key].partitions_def
            kind = kinds[type(partitions).__name__ if partitions else None]
            if kind == "model" and "base" in partitions.get_partition_keys():
                kind = "experiment"
            found[name].setdefault(kind, []).append(key)
            if kind == "model":
                assert partitions.get_partition_keys() == ["Hats", "Coats", "all"]
    assert found == GRAPH
    assert {job.name for job in definitions.resolve_all_job_defs()} - {"__ASSET_JOB"} == set(GRAPH)


def test_every_asset_says_what_it_is_and_has_a_group(tmp_path):
    graph = build_definitions(Settings(home=tmp_path, warehouse=tmp_path)).resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description and node.group_name != "default", key
