"""The baselines' losses and trainer: against torch's own, and what a step changes."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ml.baselines.losses import Negatives, full_softmax_loss, sampled_softmax_loss
from ml.baselines.settings import BaselineSettings
from ml.baselines.system import network
from ml.baselines.trainer import Trainer, batches
from ml.errors import BadInputError
from ml.retrieval.core_training import windows


@pytest.mark.parametrize("biased", [True, False])
def test_the_chunked_loss_and_its_gradients_are_torchs_cross_entropy(biased):
    torch.manual_seed(0)
    n = 50_000  # chunks of 32 targets
    states, items = torch.randn(70, 8).requires_grad_(), torch.randn(n, 8).requires_grad_()
    bias = torch.randn(n).requires_grad_() if biased else None
    targets = torch.randint(n, (70,))
    variables = (states, items, bias) if bias is not None else (states, items)
    logits = states @ items.T + (0 if bias is None else bias)
    expected = functional.cross_entropy(logits, targets)
    found = full_softmax_loss(states, items, bias, targets)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(2 * found, variables), torch.autograd.grad(2 * expected, variables), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-3)


def test_bfloat16_products_barely_change_loss_and_gradients():
    torch.manual_seed(0)
    states, items = torch.randn(300, 16).requires_grad_(), torch.randn(500, 16).requires_grad_()
    bias, targets = torch.zeros(500).requires_grad_(), torch.randint(500, (300,))
    exact = full_softmax_loss(states, items, bias, targets)
    rounded = full_softmax_loss(states, items, bias, targets, torch.bfloat16)
    assert rounded.dtype == torch.float32 and abs(rounded.item() - exact.item()) < 0.01
    for a, b in zip(
        torch.autograd.grad(rounded, (states, items, bias)),
        torch.autograd.grad(exact, (states, items, bias)),
        strict=True,
    ):
        assert (a - b).norm() < 0.02 * b.norm()


def test_a_target_that_underflows_has_a_finite_loss_and_the_right_gradient():
    states = torch.tensor([[300.0]], requires_grad=True)
    loss = full_softmax_loss(states, torch.tensor([[1.0], [-1.0]]), None, torch.tensor([1]))
    assert torch.isfinite(loss)
    assert torch.autograd.grad(loss, states)[0].item() == pytest.approx(2.0)


def test_sampled_softmax_estimates_the_full_one():
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    items, states = torch.randn(300, 8), 0.5 * torch.randn(40, 8)
    all_targets = np.minimum(generator.geometric(0.02, 5_000), 300) - 1
    targets = torch.from_numpy(all_targets[:40])
    full = full_softmax_loss(states, items, None, targets)
    negatives, log_expected = Negatives(300, all_targets, 60_000, generator).draw()
    target_logits, negative_logits = (states * items[targets]).sum(dim=1), states @ items[negatives].T
    sampled = sampled_softmax_loss(target_logits, targets, negative_logits, negatives, log_expected)
    assert abs(sampled.item() - full.item()) < 0.01
    uncorrected = sampled_softmax_loss(target_logits, targets, negative_logits, negatives, torch.zeros(60_000))
    assert abs(uncorrected.item() - full.item()) > 1


def test_a_row_whose_only_negative_is_its_target_learns_nothing_and_stays_a_number():
    states = torch.ones(1, requires_grad=True)
    loss = sampled_softmax_loss(states, torch.tensor([3]), states[:, None], torch.tensor([3]), torch.zeros(1))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, states)[0].item() == 0


def trainer(n_items, sequences, name="sasrec", **changes):
    settings = BaselineSettings.model_validate({"dim": 8, "layers": 1, "max_length": 8, "batch_size": 8, **changes})
    parts = [w for s in sequences for w in windows(np.array(s), 8)]
    made = Trainer(lambda n, sparse: network(name, n, settings, sparse=sparse), n_items, parts, settings)
    return made, parts


def test_a_sampled_step_changes_only_the_rows_it_used():
    made, parts = trainer(5_000, [[1, 2, 3], [4, 5]], sampled_negatives=32)
    before = made.network.table.weight.detach().clone()
    made.network.train()
    loss, targets = made.step(parts)
    assert np.isfinite(loss) and targets == 3
    changed = (made.network.table.weight.detach() != before).any(dim=1)
    assert changed[1:6].all() and changed.sum() <= 5 + 32


def test_batches_hold_every_window_once_in_similar_lengths_and_as_many_targets():
    generator = np.random.default_rng(0)
    parts = [w for n in range(2000) for w in windows(np.full(min(9, generator.geometric(0.3) + 1), n), 8)]
    found = list(batches(parts, 32, np.random.default_rng(0)))
    assert sorted(w.items[0] for b in found for w in b) == list(range(2000))
    targets = np.array([sum(len(w.items) - 1 for w in b) for b in found])
    assert np.median(targets) == pytest.approx(32 * sum(len(w.items) - 1 for w in parts) / 2000, rel=0.1)
    assert np.percentile(targets, 95) < 1.2 * np.median(targets)
    padding = sum(max(len(w.items) for w in b) * len(b) - sum(len(w.items) for w in b) for b in found)
    assert padding < 0.1 * sum(len(w.items) for w in parts)


def test_large_catalogues_get_sampled_softmax_and_small_ones_all_items():
    def negatives(n_items, **changes):
        made = trainer(n_items, [[0, 1]], **changes)[0].negatives
        return 0 if made is None else made.count

    assert negatives(99, full_softmax_below=100) == 0
    assert negatives(100, full_softmax_below=100) == 4096
    assert negatives(99, full_softmax_below=100, sampled_negatives=7) == 7


def test_an_item_outside_the_vocabulary_is_refused():
    from ml.baselines.trainer import train
    from ml.sequences import ItemSequences

    data = ItemSequences(["a", "b"], [np.array([0, 2])], [np.zeros(2)])
    settings = BaselineSettings()
    with pytest.raises(BadInputError, match=r"item index 2 is outside 0\.\.1"):
        train("sasrec", lambda n, sparse: network("sasrec", n, settings, sparse=sparse), data, None, settings)
