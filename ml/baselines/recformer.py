"""Recformer (Li et al., KDD 2023, arXiv 2305.13731) as a system: items and histories are text, and nothing else.

It reads rows of `training_sequences`, where the searches are, and not item indices as `System` does. `RowSystem` puts
it under the evaluation's protocol, so that ranking, ties and blocks stay there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from ml.baselines.recformer_settings import RecformerSettings
from ml.errors import BadInputError
from ml.evaluation.protocol import ItemExamples, check_fitted, item_examples
from ml.sequences import ItemSequences

if TYPE_CHECKING:
    from ml.baselines.recformer_model import RecformerNetwork
    from ml.baselines.recformer_steps import Split
    from ml.baselines.recformer_text import RecformerText
    from ml.baselines.recformer_training import HeldOut
    from ml.models.run import TrackedRun

FORMAT = "hemline-recformer-1"


class RowScorer(Protocol):
    """A fitted system that scores all of `items` for whole rows of `training_sequences`."""

    name: str
    items: list[str]

    def scores_examples(self, examples: pa.Table) -> np.ndarray:
        """Return float [rows, items]."""
        ...


class Recformer:
    """Scores every item of the catalogue by the cosine of its text's vector with the history's (equation 5).

    No item needs to have been bought: one that training never saw is encoded from its text (cold start).

    Attributes: `name` ("recformer" or "recformer_queries"), `items` (the catalogue's item ids, in its order),
    `item_vectors` (float32 [items, d], unit length; None before fitting).
    """

    def __init__(
        self, settings: RecformerSettings, catalog: pa.Table, with_queries: bool, run: TrackedRun | None = None
    ) -> None:
        """`catalog`: rows of the `catalog` table; `with_queries`: searches are shown as text in their place."""
        self.name = "recformer_queries" if with_queries else "recformer"
        self.items: list[str] = catalog["item_id"].to_pylist()
        self.settings, self.with_queries, self.run = settings, with_queries, run
        self.item_vectors: np.ndarray | None = None
        self._catalog = catalog
        self._network: RecformerNetwork | None = None
        self._text: RecformerText | None = None

    def fit_examples(self, examples: pa.Table, split: Split, validation: pa.Table | None = None) -> None:
        """Pre-train and fine-tune on the rows of `examples` whose part of `split` is train; a second fit starts anew.

        `validation`: rows whose target is to be ranked, which choose the epoch. On a CPU the same rows, settings and
        seed give the same model. Raises NothingToTrain where no customer has two known items, BadInputError for an
        unknown split or an encoder that cannot be used, HemlineError where the loss is no number.
        """
        import torch

        from ml.baselines.recformer_steps import customer_sequences
        from ml.baselines.recformer_training import RecformerTrainer

        if split not in ("temporal", "leave_one_out"):
            raise BadInputError(f"split {split!r}: expected temporal or leave_one_out")
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            network, text = self._untrained()
            sequences = customer_sequences(examples, split, text, self.with_queries)
            held_out = self._held_out(validation, text)
            trainer = RecformerTrainer(network, text, sequences, held_out, self.settings, self.run)
            trainer.pretrain()
            best = trainer.finetune()
            unseen = np.setdiff1d(np.arange(len(self.items)), trainer.item_rows)
            vectors = np.empty((len(self.items), network.width), dtype=np.float32)
            network.load_state_dict(best.item_weights)
            vectors[unseen] = trainer.encode_items(unseen)
            vectors[trainer.item_rows] = best.item_vectors
            network.load_state_dict(best.weights)
        self._network, self._text, self.item_vectors = network, text, vectors

    def scores_examples(self, examples: pa.Table) -> np.ndarray:
        """Return float32 [rows, items]: cosines; -inf for a row without any step that has text.

        Only the rows' `steps` are read. Raises BadInputError before fitting.
        """
        from ml.baselines.recformer_model import encode
        from ml.baselines.recformer_steps import row_histories

        check_fitted(self.name, self.items if self.item_vectors is not None else [])
        assert self._network is not None and self._text is not None and self.item_vectors is not None
        histories = row_histories(examples, self._text, self.with_queries)
        scores = encode(self._network, self._text, histories) @ self.item_vectors.T
        scores[[n for n, history in enumerate(histories) if not len(history)]] = -np.inf
        return scores

    def save(self, folder: Path) -> None:
        """Write `recformer.safetensors` (the weights), `vectors.safetensors` and `recformer.json` into `folder`."""
        from safetensors.numpy import save_file as save_arrays
        from safetensors.torch import save_file

        check_fitted(self.name, self.items if self.item_vectors is not None else [])
        assert self._network is not None and self.item_vectors is not None
        # Clones: an encoder may tie two of its tables, and the format refuses tensors that share memory.
        weights = {key: value.detach().cpu().clone() for key, value in self._network.state_dict().items()}
        save_file(weights, folder / "recformer.safetensors")
        save_arrays({"items": self.item_vectors}, folder / "vectors.safetensors")
        description = {"format": FORMAT, "with_queries": self.with_queries, "items": self.items}
        (folder / "recformer.json").write_text(json.dumps(description), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, settings: RecformerSettings, catalog: pa.Table) -> Recformer:
        """Read what `save` wrote; settings and catalogue are those it was fitted with.

        Raises BadInputError for anything else, a catalogue of other items too.
        """
        from safetensors.numpy import load_file

        from ml.retrieval.files import load_weights, read_description

        description = read_description(folder, "recformer.json", FORMAT)
        system = cls(settings, catalog, description["with_queries"])
        if system.items != description["items"]:
            raise BadInputError(f"{folder}: this Recformer was fitted on a catalogue of other items; fit it again")
        network, system._text = system._untrained()
        load_weights(network, folder / "recformer.safetensors")
        system._network = network.eval()
        system.item_vectors = load_file(folder / "vectors.safetensors")["items"]
        return system

    def _untrained(self) -> tuple[RecformerNetwork, RecformerText]:
        import torch

        from ml.baselines.recformer_model import RecformerNetwork, load_encoder, longest_input
        from ml.baselines.recformer_text import RecformerText

        encoder, tokenizer = load_encoder(self.settings)
        text = RecformerText(tokenizer, self._catalog, self.settings, longest_input(encoder))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return RecformerNetwork(encoder, self.settings).to(device), text

    def _held_out(self, validation: pa.Table | None, text: RecformerText) -> HeldOut | None:
        from ml.baselines.recformer_steps import row_histories, row_targets
        from ml.baselines.recformer_training import HeldOut

        if validation is None:
            return None
        return HeldOut(row_histories(validation, text, self.with_queries), row_targets(validation, text))


class RowSystem:
    """A fitted system that reads rows, as the protocol's `System`: `rank_targets(it, it.examples, catalogue)`.

    The protocol hands histories and ages on untouched but for unknown items; here a history is one known item and
    its age the row's number in the table, which says what to score.
    """

    def __init__(self, system: RowScorer, examples: pa.Table) -> None:
        """`examples`: the rows to rank, as `sample_examples` gives them."""
        check_fitted(system.name, system.items)
        self.name, self.items = system.name, system.items
        self._system, self._rows = system, examples
        shown = item_examples(examples)
        numbers = [np.array([row], dtype=np.float64) for row in range(len(shown))]
        self.examples: ItemExamples = replace(shown, histories=[system.items[:1] for _ in numbers], ages=numbers)

    def fit(self, data: ItemSequences, validation: ItemSequences | None = None) -> None:
        """Raise BadInputError: item sequences have no searches; call the system's own `fit_examples` before."""
        raise BadInputError(f"{self.name} is fitted on rows of training_sequences; call its fit_examples")

    def scores(self, histories: Sequence[np.ndarray], ages: Sequence[np.ndarray]) -> np.ndarray:
        """Return the scores of the rows that `ages` number, float [n, items]."""
        return self._system.scores_examples(self._rows.take(pa.array([int(age[0]) for age in ages], pa.int64())))
