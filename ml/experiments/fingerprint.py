"""What an experiment's rows were made from: the same again need not be made again."""

from __future__ import annotations

import hashlib
import json

from ml.code import code_fingerprint
from ml.experiments.catalogue import Experiment, other_systems, source_category
from ml.settings import Settings
from ml.warehouse import Warehouse

_SECTIONS = ("memory", "prompts", "language_model", "generation", "title_encoder", "item_embeddings", "experiments")


def made_from(settings: Settings, warehouse: Warehouse, experiment: Experiment) -> str:
    """Return a hash of the experiment, the settings it reads, the tables it is made from, and the code."""
    read = [settings_read(settings, experiment), tables_read(settings, warehouse, experiment)]
    what = [repr(experiment), other_systems(settings, experiment), *read, code_fingerprint()]
    return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=12).hexdigest()


def settings_read(settings: Settings, experiment: Experiment) -> dict[str, object]:
    """Return the settings that can change an experiment's rows."""
    dump, others = settings.model_dump(mode="json"), other_systems(settings, experiment)
    names = ["k", "resamples", "confidence", "seed"]
    if any(name.startswith("recformer") for name in others):
        names.append("recformer")
    if {"gru4rec", "sasrec", "bert4rec", "nextitnet"} & set(others):
        names.append("baselines")
    evaluation = {name: dump["evaluation"][name] for name in names}
    return {**{name: dump[name] for name in _SECTIONS}, "evaluation": evaluation, "seed": dump["seed"]}


def tables_read(settings: Settings, warehouse: Warehouse, experiment: Experiment) -> list[list[str]]:
    """Return the names of the files, which are hashes of their rows, of the tables an experiment reads."""
    categories = sorted({source_category(settings), experiment.category or source_category(settings)})
    return [
        *(warehouse.content("training_sequences", category=category) for category in categories),
        *(warehouse.content(table) for table in ("catalog", "query_daily", "query_vectors", "item_codes")),
    ]
