"""The baselines' networks: what a state may see, and identities that follow from the papers' equations."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ml.baselines import NAMES
from ml.baselines.bert4rec import Bert4Rec
from ml.baselines.gru4rec import Gru4Rec
from ml.baselines.network import item_scores, pad
from ml.baselines.nextitnet import CausalConvolution, NextItNet, receptive_field
from ml.baselines.sasrec import SasRec
from ml.baselines.settings import BaselineSettings
from ml.baselines.system import network
from ml.retrieval.core_training import Window, windows

CAUSAL = [name for name in NAMES if name != "bert4rec"]


def small(name, n_items=20, **changes):
    """Return an untrained network with weights large enough for every path to matter."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "layers": 2, "heads": 2, "dropout": 0.3, "max_length": 8, **changes}
    made = network(name, n_items, BaselineSettings.model_validate(sizes)).eval()
    for weights in made.parameters():
        if weights.dim() > 1:
            nn.init.normal_(weights, std=0.3)
    return made


@pytest.mark.parametrize("name", CAUSAL)
def test_one_forward_gives_every_prefix_the_state_it_has_alone(name):
    model, items = small(name), torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        together = model(items)[0]
        alone = torch.stack([model(items[:, : i + 1])[0, -1] for i in range(8)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_later_item_never_changes_an_earlier_state(name):
    model, items = small(name), torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    vectors = []
    model.table.register_forward_hook(lambda module, inputs, output: vectors.append(output.requires_grad_()))
    for place in range(8):
        vectors.clear()
        (gradient,) = torch.autograd.grad(model(items)[0, place].square().sum(), vectors[0])
        reached = gradient[0].abs().sum(dim=1) > 0
        assert reached[: place + 1].all() and not reached[place + 1 :].any()


@pytest.mark.parametrize("name", CAUSAL)
def test_targets_are_every_item_but_the_first_once_and_never_padding(name):
    model = small(name, n_items=40)
    sequence = np.arange(30)
    batch = [*windows(sequence, 8), Window(np.array([31, 32]), 0)]
    examples = model.examples(batch, np.random.default_rng(0))
    assert sorted(examples.targets.tolist()) == [*range(1, 30), 32]
    assert (examples.inputs[examples.wanted] == examples.targets - 1).all(), "the item right before the target"
    assert model.states(examples).shape == (30, 16)


def test_gru4rec_is_a_cell_run_step_by_step():
    model = small("gru4rec")
    assert isinstance(model, Gru4Rec)
    cell = nn.GRUCell(16, 16)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in model.gru.state_dict().items()})
    items, state = [3, 1, 4, 1, 5], torch.zeros(1, 16)
    with torch.no_grad():
        states = model(torch.tensor([items]))[0]
        for item, found in zip(items, states, strict=True):
            state = cell(4.0 * model.table.weight[None, item], state)
            torch.testing.assert_close(found, model.norm(state[0]), atol=1e-5, rtol=1e-4)


def test_sasrec_without_blocks_is_similarity_to_the_last_item():
    model = small("sasrec")
    assert isinstance(model, SasRec)
    bare = SasRec(20, dim=16, layers=0, heads=2, dropout=0.3, max_length=8).eval()
    with torch.no_grad():
        bare.positions.zero_()
        bare.table.weight.copy_(model.table.weight)
        scores = item_scores(bare, bare(torch.tensor([[3, 1, 4]]))[:, -1])[0]
        vectors = bare.table.weight[:20]
        torch.testing.assert_close(scores, 4.0 * vectors @ vectors[4])


def test_sasrec_by_its_equations():
    model = small("sasrec", layers=1, heads=1)
    items = torch.tensor([3, 1, 4, 1])
    block = model.blocks[0]
    with torch.no_grad():
        x = 4.0 * model.table.weight[items] + model.positions[:4]
        query, key, value = block.attention.project(block.attention_norm(x)).chunk(3, dim=-1)
        logits = (query @ key.T / 16**0.5).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
        x = x + block.attention.out(logits.softmax(dim=-1) @ value)
        x = x + block.network[3](functional.relu(block.network[0](block.network_norm(x))))
        torch.testing.assert_close(model(items[None])[0], model.norm(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("layers", "field"), [(0, 1), (1, 7), (2, 31), (3, 37)])
def test_nextitnet_sees_as_far_as_its_dilations_say(layers, field):
    # 1 + 2 · (1 + 2), then + 2 · (4 + 8), then + 2 · (1 + 2)
    assert receptive_field(layers) == field
    torch.manual_seed(0)
    model = NextItNet(60, dim=16, layers=layers, dropout=0.0).eval()
    vectors = []
    model.table.register_forward_hook(lambda module, inputs, output: vectors.append(output.requires_grad_()))
    state = model(torch.arange(50)[None])[0, -1]
    (gradient,) = torch.autograd.grad(state.square().sum(), vectors[0])
    reached = gradient[0].abs().sum(dim=1) > 0
    assert reached.flip(0).tolist() == [True] * field + [False] * (50 - field)


def test_the_causal_convolution_is_torchs_with_padding_on_the_left():
    torch.manual_seed(0)
    ours = CausalConvolution(4, dilation=2)
    theirs = nn.Conv1d(4, 4, 3, dilation=2)
    x = torch.randn(2, 9, 4)
    with torch.no_grad():
        theirs.weight.copy_(ours.linear.weight.view(4, 3, 4).permute(0, 2, 1))
        assert theirs.bias is not None
        theirs.bias.copy_(ours.linear.bias)
        expected = theirs(functional.pad(x.transpose(1, 2), (4, 0))).transpose(1, 2)
        torch.testing.assert_close(ours(x), expected, atol=1e-6, rtol=1e-5)


def bert(**changes):
    model = small("bert4rec", n_items=40, **changes)
    assert isinstance(model, Bert4Rec)
    return model


def test_bert4rec_never_sees_a_target():
    model = bert()
    batch = [Window(np.arange(n), 0) for n in (2, 5, 9)]
    examples = model.examples(batch, np.random.default_rng(0))
    assert (examples.inputs[examples.wanted] == model.mask).all()
    assert (examples.inputs == model.mask).sum() == examples.wanted.sum() == len(examples.targets)
    changed = [Window(np.where(w.items == 1, 39, w.items), 0) for w in batch]
    other = model.examples(changed, np.random.default_rng(0))
    hidden_rows = ((examples.inputs == 1).sum(dim=1) == 0).nonzero()[:, 0]
    assert torch.equal(examples.inputs[hidden_rows], other.inputs[hidden_rows])
    assert (examples.targets == 1).any() and torch.equal(other.targets == 39, examples.targets == 1)


def test_bert4rec_hides_the_last_item_alone_once_and_the_others_by_chance():
    model = bert(mask_share=0.25)
    batch = [Window(np.arange(9), 0) for _ in range(500)]
    examples = model.examples(batch, np.random.default_rng(0))
    alone = examples.wanted[-500:]
    assert alone[:, 8].all() and not alone[:, :8].any()
    cloze = examples.wanted[:-500]
    assert cloze.any(dim=1).all(), "a copy without a target is left out"
    expected = 4 * 500 * 0.25
    assert np.abs(cloze.sum(dim=0).numpy() - expected).max() < 5 * np.sqrt(expected)


def test_bert4rec_hides_only_what_no_earlier_window_holds():
    model = bert(mask_share=0.5)
    batch = [w for w in windows(np.arange(30), 8) for _ in range(50)]
    examples = model.examples(batch, np.random.default_rng(0))
    counts = np.bincount(examples.targets.numpy(), minlength=30)
    assert (counts > 0).all() and counts.max() < 3 * 50, "two copies and the last-item copy at most"


def test_bert4rec_looks_both_ways_but_not_at_padding():
    model = bert()
    items = np.array([3, 1, model.mask, 1, 5])
    padded, _ = pad([items, np.arange(9)], model.padding)
    with torch.no_grad():
        alone = model(torch.from_numpy(items)[None])[0]
        torch.testing.assert_close(model(torch.from_numpy(padded))[0, :5], alone, atol=1e-5, rtol=1e-4)
        items[4] = 6
        later = model(torch.from_numpy(items)[None])[0]
    assert not torch.allclose(later[2], alone[2], atol=1e-3)


def test_bert4rec_asks_by_a_mask_behind_the_history():
    assert bert().question(np.array([3, 1])).tolist() == [3, 1, 41]
