"""The metrics in the terminal: what is too little to claim anything from, and what has no number yet."""

import pyarrow as pa
from rich.console import Console

from ml.evaluation import evaluation_rows
from ml.settings import Settings
from ml.warehouse import Warehouse
from pipelines.summary import print_metrics

MADE = {"data": "2026-01-02 x", "settings": "{}", "seed": 0, "code_version": "1", "run_id": "run"}


def test_metrics_name_what_is_no_claim_and_the_command_of_what_is_missing(tmp_path):
    settings = Settings(warehouse=tmp_path / "warehouse", home=tmp_path, categories=["Hats & $caps", "Coats"])
    settings = settings.with_options("--settings shop.yaml")
    for category, ranks in {"Hats & $caps": [1, 2, 30], "Coats": list(range(1, 301))}.items():
        rows = [
            evaluation_rows(system, "temporal", "all", "catalogue", ranks, MADE, settings.evaluation)
            for system in ("ours", "ours_mixup", "sasrec")
        ]
        Warehouse(settings.warehouse).publish("evaluation_metrics", pa.concat_tables(rows), category=category)
    console = Console(record=True, width=200)
    print_metrics(console, settings)
    text = console.export_text()
    assert text.count("fewer than 250 purchases: no claim") == 1, "300 coats are enough"
    assert text.count("no number of GRU4Rec, BERT4Rec, NextItNet, Recformer, Recformer with queries:") == 2
    every = "'[gru4rec, sasrec, bert4rec, nextitnet, recformer, recformer_queries]'"
    command = f"HEMLINE_EVALUATION__MORE_SYSTEMS={every} hemline evaluate --category 'Hats & $caps' --report"
    assert f"{command} --settings shop.yaml" in text
