"""The networks under the evaluation's protocol: each by its name, fitted, asked, saved and loaded the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors.torch import save_file

from ml.baselines.bert4rec import Bert4Rec
from ml.baselines.gru4rec import Gru4Rec
from ml.baselines.network import ItemNetwork, item_scores, last_states
from ml.baselines.nextitnet import NextItNet
from ml.baselines.sasrec import SasRec
from ml.baselines.settings import BaselineSettings
from ml.baselines.trainer import train
from ml.errors import BadInputError
from ml.evaluation.core_system import seen_only
from ml.evaluation.protocol import check_fitted
from ml.retrieval.files import load_weights, read_description
from ml.sequences import ItemSequences

FORMAT = "hemline-next-item-1"
_NETWORKS: Mapping[str, tuple[type[ItemNetwork], set[str]]] = MappingProxyType(
    {
        "gru4rec": (Gru4Rec, {"dim", "dropout"}),
        "sasrec": (SasRec, {"dim", "layers", "heads", "dropout", "max_length"}),
        "bert4rec": (Bert4Rec, {"dim", "layers", "heads", "dropout", "max_length", "mask_share"}),
        "nextitnet": (NextItNet, {"dim", "layers", "dropout"}),
    }
)
"""Each network with the settings that make it."""


def network(name: str, n_items: int, settings: BaselineSettings, *, sparse: bool = False) -> ItemNetwork:
    """Return the untrained network of a baseline; `sparse`: its table's gradients are.

    Raises BadInputError where `heads` do not divide `dim`.
    """
    if settings.dim % settings.heads:
        raise BadInputError(f"baselines: dim {settings.dim} is not a multiple of heads {settings.heads}")
    made, wanted = _NETWORKS[name]
    return made(n_items, **settings.model_dump(include=wanted), sparse=sparse)


class NeuralSystem:
    """A neural baseline: scores items by their inner product with the state after the history.

    It is fitted on the items that occur in training alone; the others are not among its `items`, and everything
    scores -inf for a history without a known item. Ages are not used.
    """

    def __init__(
        self,
        name: str,
        settings: BaselineSettings,
        report: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        """`name`: one of `ml.baselines.NAMES`. `report` gets every epoch's number and what was measured."""
        self.name = name
        self.settings = settings
        self.report = report
        self.items: list[str] = []
        self.network: ItemNetwork | None = None

    def fit(self, data: ItemSequences, validation: ItemSequences | None = None) -> None:
        """Train on `data`; `validation` stops the training. Raises what `ml.baselines.trainer.train` does."""
        seen = seen_only(data)
        self.network = train(
            self.name,
            lambda n_items, sparse: network(self.name, n_items, self.settings, sparse=sparse),
            seen,
            validation,
            self.settings,
            self.report,
        )
        self.items = seen.items

    def scores(self, histories: Sequence[np.ndarray], ages: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [n, items]: state · item vector, plus the item's bias where the system has one."""
        check_fitted(self.name, self.items)
        assert self.network is not None
        result = np.full((len(histories), len(self.items)), -np.inf, dtype=np.float32)
        asked = [n for n, history in enumerate(histories) if len(history)]
        if asked:
            states = last_states(self.network, [histories[n] for n in asked], self.settings.max_length)
            result[asked] = item_scores(self.network, states).numpy()
        return result

    def save(self, folder: Path) -> None:
        """Write `next_item.safetensors` and `next_item.json` into `folder`."""
        check_fitted(self.name, self.items)
        assert self.network is not None
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.network.state_dict().items()}, folder / "next_item.safetensors")
        description = {
            "format": FORMAT, "name": self.name, "settings": self.settings.model_dump(mode="json"), "items": self.items,
        }  # fmt: skip
        (folder / "next_item.json").write_text(json.dumps(description), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> NeuralSystem:
        """Read what `save` wrote; raises BadInputError for anything else."""
        description = read_description(folder, "next_item.json", FORMAT)
        system = cls(description["name"], BaselineSettings.model_validate(description["settings"]))
        system.items = list(description["items"])
        system.network = network(system.name, len(system.items), system.settings)
        load_weights(system.network, folder / "next_item.safetensors")
        system.network.eval()
        return system
