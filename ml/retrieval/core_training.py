"""Training CORE on item sequences: every item step a target, one forward pass for all prefixes of a batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ml.errors import BadInputError, HemlineError
from ml.retrieval.core_loss import full_softmax_loss, sampled_softmax_loss
from ml.retrieval.core_model import Core, CoreNetwork, last_session_vectors, pad
from ml.retrieval.errors import NothingToTrain
from ml.settings import ItemEmbeddingSettings

if TYPE_CHECKING:
    from ml.models.run import TrackedRun
    from ml.sequences import ItemSequences

DEFAULT_NEGATIVES = 4096
MAX_VALIDATION = 2000
_BUCKET = 32
"""Batches whose sequences are sorted by length together: little padding, and still a new mixture every epoch."""


class Window(NamedTuple):
    """Part of a sequence that fits the model: item i+1 is predicted from items 0..i, for i >= `known`."""

    items: np.ndarray
    known: int


def windows(sequence: np.ndarray, max_length: int) -> Iterator[Window]:
    """Cut a sequence so that each of its items but the first is a target exactly once.

    Sequences up to `max_length` + 1 items are one window. Longer ones are cut every `max_length` // 2 items; a later
    window only predicts what the earlier ones did not, from at least half of `max_length` items.
    """
    stride = max(1, max_length // 2)
    start, predicted = 0, 0
    while predicted < len(sequence) - 1:
        part = sequence[start : start + max_length + 1]
        yield Window(part, predicted - start)
        predicted = start + len(part) - 1
        start += stride


def train_core(
    data: ItemSequences,
    validation: ItemSequences | None,
    settings: ItemEmbeddingSettings,
    run: TrackedRun | None = None,
) -> Core:
    """Fit CORE on `data` and return it with the weights of its best epoch.

    `validation` sequences: the last item is predicted from the others; NDCG@10 over the vocabulary, on at most 2,000
    of them, decides when to stop (`patience`) and which epoch is kept. Without them, all epochs are run.

    Catalogues below `full_softmax_below` use every item as a negative. Larger ones (or a set number of
    `sampled_negatives`) use sampled softmax with sparse updates, so that a step touches only the rows it used.

    On a CPU the same data, settings and seed give the same model. Raises `NothingToTrain` if no sequence has two
    items, `BadInputError` for an index outside the vocabulary.
    """
    parts = [w for s in data.sequences for w in windows(np.asarray(s), settings.max_length)]
    if not parts:
        raise NothingToTrain("item embeddings: no sequence has two items, so there is nothing to predict")
    targets = np.concatenate([w.items[w.known + 1 :] for w in parts]).astype(np.int64)
    lowest, highest = min(int(w.items.min()) for w in parts), max(int(w.items.max()) for w in parts)
    if lowest < 0 or highest >= len(data.items):
        raise BadInputError(f"item index {lowest if lowest < 0 else highest} is outside 0..{len(data.items) - 1}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        trainer = CoreTrainer(len(data.items), targets, settings, device)
        best = _fit(trainer, parts, validation_pairs(validation, data.items), run)
    trainer.network.load_state_dict(best)
    return Core(data.items, trainer.network, trainer.description)


class CoreTrainer:
    """The network, its optimisers and one training step."""

    def __init__(
        self, n_items: int, targets: np.ndarray, settings: ItemEmbeddingSettings, device: torch.device
    ) -> None:
        """`targets`: the item index of every training target, from which popular negatives are drawn."""
        self.settings, self.device, self.n_items = settings, device, n_items
        sampled = n_items >= settings.full_softmax_below
        self.negatives = settings.sampled_negatives or (DEFAULT_NEGATIVES if sampled else 0)
        self.description = settings.model_dump(include={"encoder", "dim", "layers", "heads", "dropout", "max_length"})
        self.network = CoreNetwork(n_items, **self.description, sparse=self.negatives > 0).to(device)
        table = list(self.network.table.parameters())
        others = [p for name, p in self.network.named_parameters() if not name.startswith("table.")]
        adam = torch.optim.SparseAdam if self.negatives else torch.optim.Adam
        self.optimisers: list[torch.optim.Optimizer] = [adam(table, lr=settings.learning_rate)]
        if others:
            self.optimisers.append(torch.optim.Adam(others, lr=settings.learning_rate))
        self.generator = np.random.default_rng(settings.seed)
        self._targets = targets
        self._counts = np.bincount(targets, minlength=n_items) if self.negatives else np.empty(0)

    def step(self, batch: Sequence[Window]) -> tuple[float, int]:
        """Take one optimiser step; return the mean loss and the number of targets it is the mean of."""
        padded = pad([w.items for w in batch])
        last = np.array([len(w.items) - 1 for w in batch])[:, None]
        first = np.array([w.known for w in batch])[:, None]
        place = np.arange(padded.shape[1] - 1)[None, :]
        wanted = torch.from_numpy((place >= first) & (place < last)).to(self.device)
        items = torch.from_numpy(padded).to(self.device)
        sessions = self.network(items[:, :-1])[wanted]
        loss = self._loss(sessions, items[:, 1:][wanted])
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        return loss.item(), len(sessions)

    def _loss(self, sessions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        table, settings = self.network.table, self.settings
        if not self.negatives:
            return full_softmax_loss(sessions, table.weight, targets, settings.temperature, settings.dropout)
        negatives, log_expected = self._draw()
        return sampled_softmax_loss(
            sessions, targets, table(targets), negatives, table(negatives), log_expected,
            settings.temperature, settings.dropout,
        )  # fmt: skip

    def _draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw negatives, half of them uniformly and half as often as they are targets, with log expected counts."""
        uniform = self.generator.integers(self.n_items, size=self.negatives - self.negatives // 2)
        popular = self._targets[self.generator.integers(len(self._targets), size=self.negatives // 2)]
        drawn = np.concatenate([uniform, popular])
        expected = len(uniform) / self.n_items + len(popular) * self._counts[drawn] / len(self._targets)
        log_expected = torch.from_numpy(np.log(expected).astype(np.float32))
        return torch.from_numpy(drawn).to(self.device), log_expected.to(self.device)


def _fit(
    trainer: CoreTrainer,
    parts: list[Window],
    validation: tuple[list[np.ndarray], np.ndarray] | None,
    run: TrackedRun | None,
) -> dict[str, torch.Tensor]:
    """Run the epochs; return the weights of the best one (the last one without validation)."""
    settings = trainer.settings
    best, best_ndcg, worse = trainer.network.state_dict(), -1.0, 0
    progress = tqdm(range(settings.epochs), desc="item embeddings", unit="epoch", disable=None)
    for epoch in progress:
        loss = _epoch(trainer, parts)
        if not np.isfinite(loss):
            raise HemlineError(f"item embeddings: the loss became {loss} in epoch {epoch + 1}; lower the learning rate")
        measured = {"loss": loss}
        if validation is not None:
            measured["validation_ndcg_at_10"] = ndcg = _validation_ndcg(trainer, *validation)
            worse = 0 if ndcg > best_ndcg else worse + 1
            if not worse:
                best, best_ndcg = copy.deepcopy(trainer.network.state_dict()), ndcg
        progress.set_postfix({k: f"{v:.4f}" for k, v in measured.items()})
        if run is not None:
            run.metrics(measured, step=epoch + 1)
        if worse >= settings.patience:
            break
    return best


def _epoch(trainer: CoreTrainer, parts: list[Window]) -> float:
    trainer.network.train()
    total, count = 0.0, 0
    for batch in batches(parts, trainer.settings.batch_size, trainer.generator):
        loss, targets = trainer.step(batch)
        total, count = total + loss * targets, count + targets
    return total / count


def batches(parts: list[Window], batch_size: int, generator: np.random.Generator) -> Iterator[list[Window]]:
    """Yield all windows once, in batches of similar lengths and random order."""
    order = generator.permutation(len(parts))
    groups = []
    for start in range(0, len(order), batch_size * _BUCKET):
        bucket = order[start : start + batch_size * _BUCKET]
        bucket = bucket[np.argsort([len(parts[i].items) for i in bucket], kind="stable")]
        groups += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    for i in generator.permutation(len(groups)):
        yield [parts[j] for j in groups[i]]


def validation_pairs(validation: ItemSequences | None, items: list[str]) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Return known histories and targets as indices into `items`, at most 2,000, evenly picked; None without any."""
    if validation is None:
        return None
    index = {item: i for i, item in enumerate(items)}
    translate = np.array([index.get(item, -1) for item in validation.items], dtype=np.int64)
    places = [translate[np.asarray(s)] for s in validation.sequences if len(s)]
    pairs = [(p[:-1][p[:-1] >= 0], p[-1]) for p in places if p[-1] >= 0]
    pairs = [(history, target) for history, target in pairs if len(history)]
    if not pairs:
        return None
    picked = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), MAX_VALIDATION)).astype(int))
    return [pairs[i][0] for i in picked], np.array([pairs[i][1] for i in picked])


def _validation_ndcg(trainer: CoreTrainer, histories: list[np.ndarray], targets: np.ndarray) -> float:
    """Return the mean NDCG@10 of the targets among all items, ties against the model."""
    trainer.network.eval()
    with torch.inference_mode():
        items = torch.nn.functional.normalize(trainer.network.table.weight, dim=-1)
        sessions = last_session_vectors(trainer.network, histories)
        wanted = torch.from_numpy(targets).to(trainer.device)
        gains = []
        rows = max(1, 20_000_000 // len(items))
        for start in range(0, len(wanted), rows):
            scores = sessions[start : start + rows] @ items.T
            own = scores.gather(1, wanted[start : start + rows, None])
            rank = (scores >= own).sum(dim=1)
            gains.append(torch.where(rank <= 10, 1 / torch.log2(rank + 1.0), 0.0))
        return float(torch.cat(gains).mean())
