"""One trainer for all baselines: every item step a target, one pass for all prefixes of a batch, early stopping."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from tqdm import tqdm

from ml.baselines.losses import Negatives, full_softmax_loss, sampled_softmax_loss
from ml.baselines.network import Examples, ItemNetwork, item_scores, last_states
from ml.baselines.settings import BaselineSettings
from ml.errors import BadInputError, HemlineError
from ml.evaluation.metrics import ndcg_at_k
from ml.retrieval.core_training import DEFAULT_NEGATIVES, Window, validation_pairs, windows
from ml.retrieval.errors import NothingToTrain
from ml.sequences import ItemSequences

MakeNetwork = Callable[[int, bool], ItemNetwork]
"""Makes a network for so many items, with or without sparse gradients of its table."""
_BUCKET = 32
"""Batches whose windows are sorted by length together: little padding, and still a new mixture every epoch."""


def train(
    name: str,
    make: MakeNetwork,
    data: ItemSequences,
    validation: ItemSequences | None,
    settings: BaselineSettings,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> ItemNetwork:
    """Fit the network that `make` makes on `data`; return it in evaluation mode with the weights of its best epoch.

    `validation` sequences: the last item is predicted from the others; NDCG@10 over the vocabulary, on at most 2,000
    of them, decides when to stop (`patience`) and which epoch is kept. Without them, all epochs are run. `report`
    gets each epoch's number, from 1, its loss and its NDCG.

    Sequences longer than `max_length` + 1 are cut into overlapping windows in which every item but a sequence's first
    is a target once. Catalogues below `full_softmax_below` use every item as a negative; larger ones (or a set number
    of `sampled_negatives`) use sampled softmax with sparse updates, so that a step touches only the rows it used.

    On a CPU the same data, settings and seed give the same weights; torch's own random state is left as it was.
    Raises `NothingToTrain` if no sequence has two items, `BadInputError` for an index outside the vocabulary,
    `HemlineError` where the loss is no longer a number.
    """
    parts = [w for s in data.sequences for w in windows(np.asarray(s), settings.max_length)]
    if not parts:
        raise NothingToTrain(f"{name}: no sequence has two items, so there is nothing to predict")
    lowest, highest = min(int(w.items.min()) for w in parts), max(int(w.items.max()) for w in parts)
    if lowest < 0 or highest >= len(data.items):
        raise BadInputError(f"item index {lowest if lowest < 0 else highest} is outside 0..{len(data.items) - 1}")
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        trainer = Trainer(make, len(data.items), parts, settings)
        best = _fit(name, trainer, parts, validation_pairs(validation, data.items), report)
    trainer.network.load_state_dict(best)
    return trainer.network.cpu().eval()


class Trainer:
    """The network, its optimisers and one training step."""

    def __init__(self, make: MakeNetwork, n_items: int, parts: list[Window], settings: BaselineSettings) -> None:
        self.settings = settings
        self.generator = np.random.default_rng(settings.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        count = settings.sampled_negatives or (DEFAULT_NEGATIVES if n_items >= settings.full_softmax_below else 0)
        targets = np.concatenate([w.items[w.known + 1 :] for w in parts]).astype(np.int64)
        self.negatives = Negatives(n_items, targets, count, self.generator) if count else None
        self.network = make(n_items, count > 0).to(self.device)
        table = [self.network.table.weight] if count else []
        others = [p for p in self.network.parameters() if not any(p is t for t in table)]
        self.optimisers: list[torch.optim.Optimizer] = []
        if table:
            self.optimisers.append(torch.optim.SparseAdam(table, lr=settings.learning_rate))
        if others:
            self.optimisers.append(torch.optim.Adam(others, lr=settings.learning_rate, fused=True))

    def step(self, batch: list[Window]) -> tuple[float, int]:
        """Take one optimiser step; return the mean loss and the number of targets it is the mean of."""
        examples = self.network.examples(batch, self.generator)
        loss = self.loss(examples)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        return loss.item(), len(examples.targets)

    def loss(self, examples: Examples) -> torch.Tensor:
        """Return the mean loss of the targets, over all items or a new draw of negatives."""
        network, targets = self.network, examples.targets
        states = network.states(examples)
        if self.negatives is None:
            items, dtype = network.table.weight[: network.n_items], getattr(torch, self.settings.logits)
            return full_softmax_loss(states, items, network.bias, targets, dtype)
        negatives, log_expected = (drawn.to(self.device) for drawn in self.negatives.draw())
        target_logits = (states * network.table(targets)).sum(dim=1)
        negative_logits = states @ network.table(negatives).T
        if network.bias is not None:
            # not bias[targets], whose gradient several threads add up in whatever order they come
            target_logits = target_logits + network.bias.index_select(0, targets)
            negative_logits = negative_logits + network.bias.index_select(0, negatives)
        return sampled_softmax_loss(target_logits, targets, negative_logits, negatives, log_expected)


def _fit(
    name: str,
    trainer: Trainer,
    parts: list[Window],
    validation: tuple[list[np.ndarray], np.ndarray] | None,
    report: Callable[[int, dict[str, float]], None] | None,
) -> dict[str, torch.Tensor]:
    """Run the epochs; return the weights of the best one (the last one without validation)."""
    settings = trainer.settings
    best, best_ndcg, worse = trainer.network.state_dict(), -1.0, 0
    progress = tqdm(range(settings.epochs), desc=name, unit="epoch", disable=None)
    for epoch in progress:
        measured = {"loss": run_epoch(trainer, parts)}
        if not np.isfinite(measured["loss"]):
            raise HemlineError(
                f"{name}: the loss became {measured['loss']} in epoch {epoch + 1}; lower the learning rate"
            )
        if validation is not None:
            measured["validation_ndcg_at_10"] = ndcg = mean_ndcg(trainer.network, *validation, settings.max_length)
            worse = 0 if ndcg > best_ndcg else worse + 1
            if not worse:
                best, best_ndcg = copy.deepcopy(trainer.network.state_dict()), ndcg
        progress.set_postfix({k: f"{v:.4f}" for k, v in measured.items()})
        if report is not None:
            report(epoch + 1, measured)
        if worse >= settings.patience:
            break
    return best


def run_epoch(trainer: Trainer, parts: list[Window]) -> float:
    """Take a step by every batch of windows; return the mean loss of a target."""
    trainer.network.train()
    total, count = 0.0, 0
    for batch in batches(parts, trainer.settings.batch_size, trainer.generator):
        loss, targets = trainer.step(batch)
        total, count = total + loss * targets, count + targets
    return total / count


def batches(parts: list[Window], batch_size: int, generator: np.random.Generator) -> Iterator[list[Window]]:
    """Yield all windows once, in random order, in batches of similar lengths and of about as many targets each.

    `batch_size` windows a batch on average: more of short ones, fewer of long ones. With as many windows in each, a
    step's mean loss would give a target among short windows many times the weight of one among long ones.
    """
    targets = np.array([len(w.items) - 1 - w.known for w in parts])
    order, size = generator.permutation(len(parts)), batch_size * _BUCKET
    groups: list[np.ndarray] = []
    for start in range(0, len(order), size):
        bucket = order[start : start + size]
        bucket = bucket[np.argsort([len(parts[i].items) for i in bucket], kind="stable")]
        number = (np.cumsum(targets[bucket]) - 1) // (batch_size * targets.mean())
        groups += np.split(bucket, np.flatnonzero(np.diff(number)) + 1)
    for i in generator.permutation(len(groups)):
        yield [parts[j] for j in groups[i]]


def mean_ndcg(network: ItemNetwork, histories: list[np.ndarray], targets: np.ndarray, max_length: int) -> float:
    """Return the mean NDCG@10 of the targets among all items, ties against the network."""
    network.eval()
    states = last_states(network, histories, max_length)
    wanted = torch.from_numpy(targets).to(states.device)
    rows = max(1, 20_000_000 // network.n_items)
    ranks = []
    for start in range(0, len(wanted), rows):
        scores = item_scores(network, states[start : start + rows])
        own = scores.gather(1, wanted[start : start + rows, None])
        ranks.append((scores >= own).sum(dim=1).cpu().numpy())
    return float(ndcg_at_k(np.concatenate(ranks).astype(np.float64), 10).mean())
