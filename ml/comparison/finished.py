"""What a comparison has finished, kept on disk: a comparison that was cut short does only the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ml.code import code_fingerprint
from ml.comparison.contenders import Ranked
from ml.files import read_json, write_json
from ml.settings import Settings
from ml.warehouse import Warehouse

_READ_BY_ALL = ("sequences", "evaluation", "recommendations")
_READ_BY_OURS = ("memory", "prompts", "generation", "title_encoder", "item_embeddings")
_NOT_READ = {
    *("splits", "actions", "more_systems", "baselines", "recformer"),
    *("mixup", "ranker", "resamples", "confidence"),
}


class Finished:
    """Finished results in a folder, each under a key of everything it was made from."""

    def __init__(
        self, settings: Settings, warehouse: Warehouse, category: str, folder: Path, ours: Sequence[str]
    ) -> None:
        """`ours`: what our results depend on beside settings and tables, such as the adapter's version."""
        self.settings, self.folder, self.ours = settings, folder, list(ours)
        self.data = [
            warehouse.content("training_sequences", category=category),
            *(warehouse.content(table) for table in ("catalog", "query_daily", "query_vectors", "item_codes")),
        ]

    def load(self, view: str, system: str) -> list[Ranked] | None:
        """Return what was kept of a system (of ours: both orders), None where nothing was made of the same inputs."""
        found = read_json(self._path(view, system))
        if found is None:
            return None
        return [
            Ranked(**{**kept, "ranks": {name: np.array(ranks, np.float64) for name, ranks in kept["ranks"].items()}})
            for kept in found
        ]

    def save(self, view: str, system: str, results: Sequence[Ranked]) -> None:
        """Keep a system's results."""
        plain = [
            {**vars(result), "ranks": {name: _plain(ranks) for name, ranks in result.ranks.items()}}
            for result in results
        ]
        write_json(self._path(view, system), plain)

    def _path(self, view: str, system: str) -> Path:
        made_from = [self.settings_of(system), self.data, code_fingerprint(), self.ours if system == "ours" else []]
        key = hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=12).hexdigest()
        return self.folder / view / f"{system}-{key}.json"

    def settings_of(self, system: str) -> dict[str, dict[str, object]]:
        """Return the settings a system's ranks depend on."""
        dump = self.settings.model_dump(mode="json")
        own = {name: {k: v for k, v in dump[name].items() if k not in _NOT_READ} for name in _READ_BY_ALL}
        if system == "ours":
            own |= {name: dump[name] for name in _READ_BY_OURS} | {"ranker": dump["recommendations"]["ranker"]}
            own["both_orders"] = {"mixup": dump["evaluation"]["mixup"]}
        elif system == "core":
            own["item_embeddings"] = dump["item_embeddings"]
        elif system in self.settings.evaluation.more_systems:
            own["system"] = dump["evaluation"]["recformer" if system.startswith("recformer") else "baselines"]
        return own


def _plain(ranks: np.ndarray) -> list[float | None]:
    return [None if np.isnan(rank) else float(rank) for rank in ranks]
