"""What an experiment's rows were made from: the same again need not be made again."""

from __future__ import annotations

import hashlib
import json

from ml.code import code_fingerprint
from ml.experiments.catalogue import Experiment, source_category
from ml.settings import Settings
from ml.warehouse import Warehouse

_SECTIONS = ("memory", "prompts", "language_model", "generation", "title_encoder", "item_embeddings", "experiments")


def made_from(settings: Settings, warehouse: Warehouse, experiment: Experiment) -> str:
    """Return a hash of the experiment, the settings it reads, the tables it is made from, and the code."""
    dump = settings.model_dump(mode="json")
    categories = sorted({source_category(settings), experiment.category or source_category(settings)})
    tables = [
        *(warehouse.content("training_sequences", category=category) for category in categories),
        *(warehouse.content(table) for table in ("catalog", "query_daily", "query_vectors", "item_codes")),
    ]
    read = ["k", "resamples", "confidence", "seed"]
    if "recformer_queries" in settings.experiments.systems:
        read.append("recformer")
    evaluation = {name: dump["evaluation"][name] for name in read}
    chosen = {**{name: dump[name] for name in _SECTIONS}, "evaluation": evaluation, "seed": dump["seed"]}
    what = [repr(experiment), chosen, tables, code_fingerprint()]
    return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=12).hexdigest()
