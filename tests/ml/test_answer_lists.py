"""The mixup's list of an answer: the very items that its ranks say, for people to read."""

import numpy as np
import pytest
import torch

from ml.comparison.mixup_ranking import MixupRanking
from ml.evaluation import ItemExamples
from ml.generation import Generated
from ml.retrieval import Core
from ml.retrieval.core_model import CoreNetwork

ITEMS = [f"item-{n}" for n in range(8)]
TITLES = [f"{letter} thing" for letter in "abcdefgh"]


class Letters:
    """A title encoder that knows the first letter, each a random direction: no two titles tie."""

    directions = np.random.default_rng(0).normal(size=(128, 4)).astype(np.float32)

    def encode(self, texts):
        return self.directions[[ord(text[0]) if text else 0 for text in texts]]


@pytest.fixture
def core():
    """A CORE that knows all items but the last."""
    sizes = {"encoder": "average", "dim": 2, "layers": 1, "heads": 1, "dropout": 0.0, "max_length": 5}
    network = CoreNetwork(len(ITEMS) - 1, **sizes)
    with torch.no_grad():
        network.table.weight.copy_(torch.randn(len(ITEMS) - 1, 2, generator=torch.Generator().manual_seed(0)))
    return Core(ITEMS[:-1], network, sizes)


def answer(item, title):
    return Generated(**{**dict.fromkeys(Generated.__dataclass_fields__), "item_id": item, "title": title})


@pytest.mark.parametrize("n", [0, 1, 3])
def test_an_item_stands_where_its_rank_says(core, n):
    answers = {"e0": answer("item-2", "f thing"), "e1": answer(None, ""), "e2": answer("item-7", "a thing")}
    ids, histories = list(answers), [["item-0"], ["item-4"], []]
    vectors = Letters().encode(TITLES)

    def shown(targets):
        return ItemExamples(ids, histories, [np.zeros(len(h)) for h in histories], targets, ["2026-01-01"] * 3)

    mixed = MixupRanking(answers, core, Letters(), ITEMS, vectors)
    lists = mixed.lists(shown(ITEMS[:3]), n, 6)
    assert {len(own) for own in lists.values()} == {6}
    if n:
        assert [lists[example][0] for example in ids] == ["item-2", "item-4", "item-7"], "the named item leads"
    for item in ITEMS:
        ranks = mixed.ranks(shown([item] * 3), n)
        for example, rank in zip(ids, ranks, strict=True):
            assert (lists[example].index(item) + 1 if item in lists[example] else rank) == rank


def test_a_target_that_is_no_candidate_has_no_rank_and_costs_no_scores(core):
    """Nor does its answer have to be there: nothing of it is read."""
    answers = {"e0": answer("item-2", "f thing"), "e1": answer("item-1", "b thing")}
    shown = ItemExamples(
        ["e0", "e1", "e2", "e3"], [["item-0"]] * 4, [np.zeros(1)] * 4,
        ["item-3", "item-3", "item-5", "nowhere"], ["2026-01-01", "2026-01-02", "2026-01-01", "2026-01-01"],
    )  # fmt: skip
    mixed = MixupRanking(answers, core, Letters(), ITEMS, Letters().encode(TITLES))

    def available(day):
        return ITEMS[1:4] if day == "2026-01-01" else ITEMS[3:4]

    ranks = mixed.ranks(shown, 1, available)
    assert 1 <= ranks[0] <= 3 and ranks[1] == 1
    assert np.isnan(ranks[2:]).all()
