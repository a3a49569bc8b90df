"""Recformer's network over real encoder classes, and its losses against values computed by hand."""

import numpy as np
import pytest
import torch
from test_baselines_recformer_text import COLOURS, FAMILIES, NOUNS, SPECIAL, WORDS, catalog_of, save_encoder
from transformers import AutoModel, AutoTokenizer

from ml.baselines.recformer_losses import contrastive_loss, in_batch_loss, mask_tokens, masked_language_loss
from ml.baselines.recformer_model import MaskedLanguageHead, RecformerNetwork, encode, load_encoder, longest_input
from ml.baselines.recformer_settings import RecformerSettings
from ml.baselines.recformer_text import CLS, RecformerText, TokenBatch
from ml.errors import BadInputError, HemlineError
from ml.memory.encoders import encoder_folder

ITEMS = {f"{colour} {noun}": f"{colour} {noun}" for colour in COLOURS for noun in NOUNS[:4]}


def network_of(folder, family="bert", layers=1, **changes):
    """A network in eval mode and the text of `ITEMS`."""
    settings = RecformerSettings(encoder=save_encoder(folder, family, layers), **changes)
    encoder, tokenizer = load_encoder(settings)
    text = RecformerText(tokenizer, catalog_of(ITEMS), settings, longest_input(encoder))
    return RecformerNetwork(encoder, settings).eval(), text


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_mates_padding_and_order_do_not_change_a_representation(family, tmp_path):
    network, text = network_of(tmp_path, family)
    histories = [np.arange(length) % len(ITEMS) for length in (0, 1, 2, 30, 3, 1)]
    together = encode(network, text, histories)
    assert together.shape == (6, 32) and together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encode(network, text, [history]) for history in histories])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(together[1], together[5], atol=1e-6) and not np.allclose(together[1], together[2], atol=1e-3)
    assert encode(network, text, []).shape == (0, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_its_own_embeddings_it_is_the_encoder_itself(family, tmp_path):
    network, text = network_of(tmp_path, family, layers=2)
    batch = text.batch([np.array([3, 7]), np.array([1])])
    with torch.inference_mode():
        own = network(batch)
        network.token_types.weight.zero_()
        network.item_places.weight.zero_()
        window = {"attention_window": [64, 64]} if family == "longformer" else {}
        plain = AutoModel.from_pretrained(tmp_path, **window).eval()
        inputs = {"input_ids": torch.from_numpy(batch.ids), "attention_mask": torch.from_numpy(batch.mask).long()}
        if family == "longformer":
            inputs["global_attention_mask"] = torch.tensor([[1] + [0] * (batch.ids.shape[1] - 1)] * 2)
        states = plain(**inputs).last_hidden_state
        assert torch.allclose(network.hidden(batch)[0], states[0], atol=1e-5)
        assert torch.allclose(network(batch), torch.nn.functional.normalize(states[:, 0], dim=-1), atol=1e-5)
        assert not torch.allclose(network(batch), own, atol=1e-3), "token types and item places count"


def test_the_input_is_the_normalised_sum_of_four_embeddings(tmp_path):
    network, text = network_of(tmp_path)
    batch = text.batch([np.array([3, 7])])
    seen = []
    network.encoder.embeddings.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.inference_mode():
        network(batch)
        ids, types, places = (torch.from_numpy(a) for a in (batch.ids, batch.types, batch.places))
        own = network.encoder.embeddings
        total = own.word_embeddings(ids) + own.position_embeddings(torch.arange(ids.shape[1]))
        total = total + network.token_types(types) + network.item_places(places) + own.token_type_embeddings.weight[0]
        expected = torch.nn.functional.layer_norm(total, (32,), own.LayerNorm.weight, own.LayerNorm.bias, 1e-12)
    assert torch.allclose(seen[0], expected, atol=1e-5)


def test_an_items_place_in_the_history_matters(tmp_path):
    network, text = network_of(tmp_path)
    first, second = encode(network, text, [np.array([0, 5]), np.array([5, 0])])
    assert not np.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(("family", "longest"), [("bert", 128), ("roberta", 128), ("longformer", 128)])
def test_an_encoders_own_limit_cuts_the_oldest_items(family, longest, tmp_path):
    network, text = network_of(tmp_path, family, max_tokens=1024, max_items=100)
    assert text.max_tokens == longest
    history = np.arange(90) % len(ITEMS)
    assert np.allclose(encode(network, text, [history]), encode(network, text, [history[-50:]]), atol=1e-5)


def test_trained_layers_leaves_the_rest_of_the_encoder_alone(tmp_path):
    network, _ = network_of(tmp_path, layers=3, trained_layers=1)
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {"token_types.weight", "item_places.weight"} < learning
    assert all("encoder.layer.2." in name for name in learning - {"token_types.weight", "item_places.weight"})
    whole, _ = network_of(tmp_path, layers=3)
    assert all(parameter.requires_grad for parameter in whole.parameters())


def test_the_packaged_minilm_reads_key_value_text():
    settings = RecformerSettings()
    encoder, tokenizer = load_encoder(settings)
    assert longest_input(encoder) == 512
    catalog = catalog_of(
        {
            "a": ("evening dress", {"colour": "red"}),
            "b": ("cocktail gown", {"colour": "red"}),
            "c": ("power drill", {"voltage": "12"}),
        }
    )
    text = RecformerText(tokenizer, catalog, settings, longest_input(encoder))
    torch.manual_seed(0)
    vectors = encode(RecformerNetwork(encoder, settings), text, [np.array([i]) for i in range(3)])
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    plain = AutoModel.from_pretrained(encoder_folder(settings.encoder)).eval()
    spelled = AutoTokenizer.from_pretrained(encoder_folder(settings.encoder))("title evening dress colour red")
    assert text.batch([np.array([0])]).ids[0].tolist() == spelled["input_ids"][:-1], "as written, without [SEP]"
    with torch.inference_mode():
        state = plain(torch.tensor([spelled["input_ids"][:-1]])).last_hidden_state[0, 0]
    assert float(state @ torch.from_numpy(vectors[0]) / state.norm()) > 0.9, "new random embeddings are small"


def test_nothing_that_is_an_encoder_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="holds no encoder"):
        load_encoder(RecformerSettings(encoder=str(tmp_path)))


def test_vectors_that_are_no_numbers_are_refused(tmp_path):
    network, text = network_of(tmp_path)
    with torch.no_grad():
        network.token_types.weight.fill_(np.nan)
    with pytest.raises(HemlineError, match="not numbers"):
        encode(network, text, [np.array([0])])


def test_the_contrastive_loss_by_hand():
    sequences = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    items = torch.tensor([[0.8, 0.6], [0.0, 1.0]])  # of items 4 and 9
    # Two sequences share the next item 9: the batch's set of next items has two members, not three.
    loss = in_batch_loss(sequences, items, np.array([9, 4, 9]), temperature=0.5)
    cosines = [(0.8, 0.0), (0.96, 0.8), (0.6, 1.0)]
    by_hand = [
        -np.log(np.exp(row[right] / 0.5) / (np.exp(row[0] / 0.5) + np.exp(row[1] / 0.5)))
        for row, right in zip(cosines, (1, 0, 1), strict=True)
    ]
    assert loss.item() == pytest.approx(np.mean(by_hand), abs=1e-6)
    assert contrastive_loss(sequences, items, torch.tensor([1, 0, 1]), 0.5).item() == pytest.approx(loss.item())
    one = in_batch_loss(sequences[:1], items[:1], np.array([4]), 0.05)
    assert one.item() == 0, "a batch of one item has no negatives"


def test_tokens_are_masked_as_in_bert():
    shape = (200, 50)
    ids, types = np.full(shape, 7), np.full(shape, 2)
    types[:, 0] = CLS
    mask = np.ones(shape, dtype=bool)
    mask[:, 40:] = False
    shown, chosen = mask_tokens(TokenBatch(ids, types, types, mask), 3, 1000, np.random.default_rng(0))
    assert not chosen[:, 0].any() and not chosen[:, 40:].any()
    assert chosen[:, 1:40].mean() == pytest.approx(0.15, abs=0.02)
    assert (shown.ids[~chosen] == 7).all() and (ids == 7).all(), "the given batch stays"
    fates = shown.ids[chosen]
    assert (fates == 3).mean() == pytest.approx(0.8, abs=0.03)
    assert (fates == 7).mean() == pytest.approx(0.1, abs=0.03)


def test_the_masked_language_loss_by_hand(tmp_path):
    network, text = network_of(tmp_path)
    torch.manual_seed(0)
    head = MaskedLanguageHead(network)
    batch = text.batch([np.array([3]), np.array([5, 6])])
    chosen = np.zeros_like(batch.mask)
    chosen[0, 2] = chosen[1, 1] = chosen[1, 3] = True
    with torch.inference_mode():
        loss = masked_language_loss(network, head, batch, batch.ids, chosen).item()
        assert masked_language_loss(network, head, batch, batch.ids, np.zeros_like(chosen)).item() == 0
        hidden = network.hidden(batch).numpy()
        by_hand = []
        for row, place in ((0, 2), (1, 1), (1, 3)):
            dense = head.dense(torch.from_numpy(hidden[row, place]))
            m = torch.nn.functional.layer_norm(torch.nn.functional.gelu(dense), (32,))
            scores = (network.words.weight @ m).numpy().astype(np.float64)
            by_hand.append(np.log(np.exp(scores).sum()) - scores[batch.ids[row, place]])
    assert loss == pytest.approx(np.mean(by_hand), abs=1e-5)
    assert len(head.bias) == len(WORDS) and SPECIAL[0] == WORDS[0]
