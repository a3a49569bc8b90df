"""The jobs: what a night makes, what a week fits, what is ingested ahead, what is evaluated."""

from typing import Any

import dagster as dg

from assets.health import PRESENT
from ml.tables import TABLES

LOG = ["interactions", "rejected_interactions"]
NIGHT_INPUTS = ["catalog", "base_model", "item_codes", "query_daily", "query_vectors", "query_memory"]
NIGHT_TABLES = ["user_histories", "generations", "recommendations", "realised", "night_health"]
SEQUENCES = ["training_sequences", "query_title_pairs"]
FITS = [
    "prompts",
    "adapter",
    "prompt_perplexity",
    "title_encoder",
    "title_index",
    "item_embeddings",
    "id_index",
    "ranker",
]
EVALUATION = [name for name in TABLES if name.startswith("evaluation_")]
EXPERIMENT = ["experiment_metrics", "experiment_ranks"]

SELECTIONS = {
    "ingest": [*LOG, "query_daily"],
    "nightly": [*LOG, *NIGHT_INPUTS, *NIGHT_TABLES],
    "prepare": ["catalog", "base_model", "item_codes", "query_vectors"],
    "sequences": SEQUENCES,
    "fit": FITS,
    "train": [*SEQUENCES, *FITS],
    "evaluate": EVALUATION,
    "experiment": EXPERIMENT,
}
WRITES, DAYS = "hemline/writes", "days"
"""Tag of the jobs that write day tables: `dagster.yaml` lets one of their runs go on at a time, in the order asked."""
_MAX_HOURS = {"ingest": 12, "nightly": 12, "train": 72, "fit": 72, "evaluate": 72, "experiment": 72}
"""A run that takes longer hangs: run monitoring ends it and marks it failed."""
DESCRIPTIONS = {
    "ingest": "Clean a range of days in one Spark session: what `train` needs before the first night.",
    "nightly": "One day, from the raw log to the published tables.",
    "prepare": "Whole tables that fits read: the catalogue, item codes, query vectors.",
    "sequences": "Sequences and query-title pairs of one category.",
    "fit": "Fit and promote the models of one model partition, from the sequences that are published.",
    "train": "Both of one category: what a week renews.",
    "evaluate": "Score ours and every other system on the held-out purchases of one model partition.",
    "experiment": "One of the paper's ablations, zero-shot or low-resource runs.",
}


def jobs() -> list[Any]:
    """Return every job over its assets."""
    present = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("recommendations"), PRESENT))
    return [
        *(
            dg.define_asset_job(
                name,
                selection=dg.AssetSelection.assets(*keys) - present,
                description=DESCRIPTIONS[name],
                tags=_tags(name),
            )
            for name, keys in SELECTIONS.items()
        ),
        dg.define_asset_job(
            "health", selection=present, description="Whether last night's table is there, by the clock."
        ),
    ]


def _tags(job: str) -> dict[str, str]:
    tags = {WRITES: DAYS} if job in ("ingest", "nightly") else {}
    return tags | ({"dagster/max_runtime": str(_MAX_HOURS[job] * 3600)} if job in _MAX_HOURS else {})
