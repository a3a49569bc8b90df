"""Recformer's training: pre-training (paper 2.3.1), then fine-tuning in two stages (paper 2.3.2, algorithm 1).

Departures: pre-training reads the shop's own training rows instead of other shops' logs; its masked-language loss is
computed on a masked copy of the sequences, not of the single next items. The item matrix of fine-tuning holds
the items that occur in training, not the whole catalogue, so that an item that could not yet be bought is no negative;
the others are encoded afterwards by the weights that made the matrix.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from ml.baselines.recformer_losses import contrastive_loss, in_batch_loss, mask_tokens, masked_language_loss
from ml.baselines.recformer_model import MaskedLanguageHead, RecformerNetwork, encode, item_histories
from ml.baselines.recformer_settings import RecformerSettings
from ml.baselines.recformer_steps import draw_targets
from ml.baselines.recformer_text import RecformerText
from ml.errors import BadInputError, HemlineError
from ml.evaluation.metrics import ndcg_at_k
from ml.retrieval.errors import NothingToTrain

if TYPE_CHECKING:
    from ml.models.run import TrackedRun

logger = logging.getLogger(__name__)
Weights = dict[str, torch.Tensor]
LossTerms = Callable[[list[np.ndarray], np.ndarray], Iterator[tuple[torch.Tensor, int]]]
"""The terms of the loss of histories and the items that follow them, each with the tokens that were read for it."""
_BUCKET = 16
"""Batches whose sequences are sorted by length together: little padding, and still a new mixture every epoch."""


@dataclass(frozen=True)
class HeldOut:
    """Validation rows: histories, and the index of the item that was bought next, int64 [n]."""

    histories: list[np.ndarray]
    targets: np.ndarray


@dataclass(frozen=True)
class Snapshot:
    """The best epoch so far: the model M', the item matrix I' [items, d], and the weights that encoded I'."""

    weights: Weights
    item_weights: Weights
    item_vectors: np.ndarray
    ndcg: float


class RecformerTrainer:
    """A network, the sequences it learns from, and the passes over them.

    Attributes: `network`, `item_rows` (catalogue indices of the items of the item matrix, ascending).
    """

    def __init__(
        self,
        network: RecformerNetwork,
        text: RecformerText,
        sequences: list[np.ndarray],
        held_out: HeldOut | None,
        settings: RecformerSettings,
        run: TrackedRun | None = None,
    ) -> None:
        """`sequences` as `customer_sequences` gives them: at least two items each.

        Raises NothingToTrain without any.
        """
        if not sequences:
            raise NothingToTrain("recformer: no customer has two items in training, so there is nothing to predict")
        self.network, self.text, self.settings, self.run = network, text, settings, run
        self.generator = np.random.default_rng(settings.seed)
        self.sequences = self._sample(sequences)
        steps = np.concatenate(self.sequences)
        self.item_rows = np.unique(steps[steps >= 0])
        self.held_out = self._known(held_out)
        self._epochs = 0

    def pretrain(self) -> None:
        """Minimise L_PT = L_IIC + lambda L_MLM (equation 11) for `pretrain_epochs`.

        Raises BadInputError where the masked-language loss is wanted and the tokenizer has no mask token.
        """
        settings, text = self.settings, self.text
        if not settings.pretrain_epochs:
            return
        if settings.mlm_weight and text.mask_id is None:
            raise BadInputError("recformer.mlm_weight: this encoder's tokenizer has no mask token; set it to 0")
        head = MaskedLanguageHead(self.network).to(self.network.device)
        optimiser = self._optimiser(head)

        def terms(histories: list[np.ndarray], targets: np.ndarray) -> Iterator[tuple[torch.Tensor, int]]:
            batch, items = text.batch(histories), text.batch(item_histories(np.unique(targets)))
            contrastive = in_batch_loss(self.network(batch), self.network(items), targets, settings.temperature)
            yield contrastive, batch.tokens + items.tokens
            if settings.mlm_weight and text.mask_id is not None:
                shown, chosen = mask_tokens(batch, text.mask_id, head.bias.numel(), self.generator)
                mlm = masked_language_loss(self.network, head, shown, batch.ids, chosen)
                yield settings.mlm_weight * mlm, batch.tokens

        for epoch in range(settings.pretrain_epochs):
            self._epoch(f"pre-training {epoch + 1}", optimiser, terms, settings.pretrain_batch_size, newest_half=True)

    def finetune(self) -> Snapshot:
        """Run both stages of algorithm 1, each of at most `finetune_epochs`, and return the best epoch.

        Stage 1 encodes the item matrix anew before each epoch; stage 2 starts from the best epoch's weights and keeps
        its matrix. An epoch is better where validation NDCG@10, over the matrix the epoch was trained with, is higher
        than any before; `patience` epochs without end a stage. Without validation rows the last epochs are kept.
        """
        weights = self._weights()
        best = Snapshot(weights, weights, self.encode_items(self.item_rows), -1.0)
        for stage in (1, 2):
            self.network.load_state_dict(best.weights)
            best = self._stage(stage, best)
        self.network.load_state_dict(best.weights)
        return best

    def encode_items(self, items: np.ndarray) -> np.ndarray:
        """Return the unit vectors of catalogue indices by the network as it is, float32 [n, d]."""
        return encode(self.network, self.text, item_histories(items), "items")

    def _stage(self, stage: int, best: Snapshot) -> Snapshot:
        optimiser, worse = self._optimiser(), 0
        vectors, item_weights = best.item_vectors, best.item_weights
        for epoch in range(self.settings.finetune_epochs):
            if stage == 1 and epoch:
                vectors, item_weights = self.encode_items(self.item_rows), self._weights()
            self._finetune_epoch(f"stage {stage}, epoch {epoch + 1}", optimiser, vectors)
            ndcg = self._validation_ndcg(vectors)
            if ndcg is None or ndcg > best.ndcg:
                best, worse = Snapshot(self._weights(), item_weights, vectors, best.ndcg if ndcg is None else ndcg), 0
            else:
                worse += 1
            if worse >= self.settings.patience:
                break
        return best

    def _finetune_epoch(self, name: str, optimiser: torch.optim.Optimizer, vectors: np.ndarray) -> None:
        matrix = torch.from_numpy(vectors).to(self.network.device)

        def terms(histories: list[np.ndarray], targets: np.ndarray) -> Iterator[tuple[torch.Tensor, int]]:
            batch = self.text.batch(histories)
            places = torch.from_numpy(np.searchsorted(self.item_rows, targets)).to(matrix.device)
            yield contrastive_loss(self.network(batch), matrix, places, self.settings.temperature), batch.tokens

        self._epoch(name, optimiser, terms, self.settings.batch_size, newest_half=False)

    def _epoch(
        self, name: str, optimiser: torch.optim.Optimizer, terms: LossTerms, batch_size: int, newest_half: bool
    ) -> None:
        """One pass over all sequences, one target each; a loss's terms are differentiated one by one, for memory."""
        histories, targets = draw_targets(self.sequences, self.generator, newest_half)
        lengths = self.text.lengths(histories)
        self.network.train()
        total, tokens, started = 0.0, 0, time.monotonic()
        with tqdm(total=len(histories), desc=f"recformer {name}", unit="sequence", disable=None) as bar:
            for rows in batches(lengths, batch_size, self.generator):
                optimiser.zero_grad(set_to_none=True)
                loss = 0.0
                for term, read in terms([histories[row] for row in rows], targets[rows]):
                    term.backward()
                    loss, tokens = loss + term.item(), tokens + read
                if not np.isfinite(loss):
                    raise HemlineError(f"recformer: the loss became {loss} in {name}; lower the learning rate")
                optimiser.step()
                total += loss * len(rows)
                bar.update(len(rows))
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        seconds = max(time.monotonic() - started, 1e-9)
        self._report(name, {"loss": total / len(histories), "tokens_per_second": tokens / seconds})

    def _validation_ndcg(self, vectors: np.ndarray) -> float | None:
        """Return the mean NDCG@10 among the items of the matrix, ties against the model; None without rows."""
        if self.held_out is None:
            return None
        sessions = encode(self.network, self.text, self.held_out.histories, "validation")
        ranks = []
        for session, target in zip(sessions, np.searchsorted(self.item_rows, self.held_out.targets), strict=True):
            scores = vectors @ session
            ranks.append(int((scores >= scores[target]).sum()))
        ndcg = float(ndcg_at_k(ranks, 10).mean())
        self._report("validation", {"validation_ndcg_at_10": ndcg})
        return ndcg

    def _optimiser(self, *more: torch.nn.Module) -> torch.optim.Adam:
        parameters = [p for module in (self.network, *more) for p in module.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=self.settings.learning_rate)

    def _weights(self) -> Weights:
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def _report(self, name: str, measured: dict[str, float]) -> None:
        self._epochs += name != "validation"
        logger.info("recformer %s: %s", name, ", ".join(f"{key} {value:,.4g}" for key, value in measured.items()))
        if self.run is not None:
            self.run.metrics(measured, step=self._epochs)

    def _sample(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        """At most `max_train` of the sequences, drawn by the seed and in their own order."""
        wanted = min(len(sequences), self.settings.max_train or len(sequences))
        rows = np.sort(self.generator.permutation(len(sequences))[:wanted])
        return [sequences[row] for row in rows]

    def _known(self, held_out: HeldOut | None) -> HeldOut | None:
        """At most `max_validation` validation rows, evenly picked, with a history and a target of the item matrix."""
        if held_out is None:
            return None
        some = np.array([len(history) > 0 for history in held_out.histories], dtype=bool)
        rows = np.flatnonzero(some & np.isin(held_out.targets, self.item_rows))
        if not len(rows):
            return None
        picked = np.linspace(0, len(rows) - 1, min(len(rows), self.settings.max_validation)).astype(int)
        rows = rows[np.unique(picked)]
        return HeldOut([held_out.histories[row] for row in rows], held_out.targets[rows])


def batches(lengths: np.ndarray, batch_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield all row numbers once, in batches of similar lengths and random order."""
    order = generator.permutation(len(lengths))
    groups: list[np.ndarray] = []
    for start in range(0, len(order), batch_size * _BUCKET):
        bucket = order[start : start + batch_size * _BUCKET]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        groups += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    for i in generator.permutation(len(groups)):
        yield groups[i]
