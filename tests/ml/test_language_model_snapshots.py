"""Base models by package, path, GGUF file and hub name; the tokenizer; what is refused."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ml.errors import BadInputError
from ml.language_model import load_base_model, load_tokenizer, prepare_base_model, snapshot_fingerprint
from tests.ml.language_model_examples import quick, snapshot, tiny_model


def write_gguf(path, model):
    """A tiny Llama and a byte tokenizer as a GGUF file, weights as they are."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(pre_tokenizers.ByteLevel.alphabet())[: config.vocab_size - 1], "ab"])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "model.layers": "blk",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        writer.add_tensor(name, tensor.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package whose import fails, as the real one's does."""
    folder = tmp_path / "site" / "some_model"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_a_package_with_a_gguf_file_becomes_a_snapshot_once(package, tmp_path):
    model = tiny_model("llama")
    write_gguf(package / "tiny.gguf", model)
    with ThreadPoolExecutor(3) as pool:  # several at once: one makes it
        made = set(pool.map(lambda _: prepare_base_model("package:some_model", None, tmp_path / "models"), range(3)))
    assert len(made) == 1
    folder = made.pop()
    assert "some_model" not in sys.modules
    assert folder.name.startswith("some_model-")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert prepare_base_model("package:some_model", None, tmp_path / "models") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    loaded = load_base_model(folder, quick())
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not loaded.training
    assert load_tokenizer(folder).padding_side == "left"
    ids = torch.tensor([[5, 9, 3]])
    with torch.no_grad():
        difference = (loaded.model.embed_tokens(ids) - model.model.embed_tokens(ids)).abs().max()
    assert difference == 0

    # Another file in the package is another snapshot: its content is in the folder's name.
    write_gguf(package / "tiny.gguf", tiny_model("llama", seed=1))
    assert prepare_base_model("package:some_model", None, tmp_path / "models") != folder


def test_a_killed_conversion_leaves_nothing_that_is_taken_for_a_snapshot(package, tmp_path, monkeypatch):
    write_gguf(package / "tiny.gguf", tiny_model("llama"))

    def half(_file, target):
        (target / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ml.language_model.snapshots._dequantise", half)
        with pytest.raises(KeyboardInterrupt):
            prepare_base_model("package:some_model", None, tmp_path / "models")
    folder = prepare_base_model("package:some_model", None, tmp_path / "models")
    assert (folder / "model.safetensors").is_file()
    assert sorted(p.name for p in (tmp_path / "models").iterdir() if p.is_dir()) == [folder.name]


def test_a_package_or_path_with_safetensors_is_used_as_it_is(package, tmp_path):
    inside = snapshot(package / "model")
    assert prepare_base_model("package:some_model", None, tmp_path / "models") == inside
    assert prepare_base_model(str(inside), None, tmp_path / "models") == inside
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "name", ["package:not_installed_here", "package:os.path", "./nowhere", "a/b/c", "", "nobody/no such model", "~/x"]
)
def test_an_unknown_name_is_refused_with_the_three_forms(name, tmp_path):
    with pytest.raises(BadInputError, match=r"hub name.*local folder.*package:NAME"):
        prepare_base_model(name, None, tmp_path / "models")


def test_a_folder_without_a_model_says_what_it_holds(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match=r"nothing of the kind; expected config\.json"):
        prepare_base_model(str(tmp_path / "empty"), None, tmp_path)
    (tmp_path / "empty" / "bad.gguf").write_bytes(b"GGUF, but not really" * 10)
    with pytest.raises(BadInputError, match=r"bad\.gguf: not a GGUF file"):
        prepare_base_model(str(tmp_path / "empty"), None, tmp_path)


def test_a_hub_name_is_downloaded_at_the_revision_without_pickles(tmp_path, monkeypatch):
    asked = {}

    def download(name, *, revision, cache_dir, allow_patterns):
        asked.update(name=name, revision=revision, cache_dir=Path(cache_dir), patterns=allow_patterns)
        return str(snapshot(tmp_path / "downloaded"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert prepare_base_model("tiiuae/falcon-7b", "abc123", tmp_path / "models") == tmp_path / "downloaded"
    assert (asked["name"], asked["revision"]) == ("tiiuae/falcon-7b", "abc123")
    assert asked["cache_dir"] == tmp_path / "models" / "hub"
    assert not any(p.endswith((".bin", ".pt", ".py", "*")) for p in asked["patterns"])


def test_a_hub_name_that_cannot_be_had_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"not to be had from the hub.*package:NAME"):  # tests run offline
        prepare_base_model("nobody/nothing", None, tmp_path / "models")


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path):
    folder = snapshot(tmp_path / "one")
    shutil.copytree(folder, tmp_path / "two")
    assert snapshot_fingerprint(folder) == snapshot_fingerprint(tmp_path / "two")
    assert snapshot_fingerprint(snapshot(tmp_path / "three", seed=1)) != snapshot_fingerprint(folder)
    (tmp_path / "two" / "tokenizer.json").write_text("{}")
    assert snapshot_fingerprint(folder) != snapshot_fingerprint(tmp_path / "two")


def test_a_large_file_is_sampled_from_its_beginning_to_its_end(tmp_path):
    def fingerprint(change):
        content = bytearray(40 << 20)
        if change is not None:
            content[change] = 1
        (tmp_path / "model.safetensors").write_bytes(content)
        return snapshot_fingerprint(tmp_path)

    assert len({fingerprint(change) for change in (None, 0, -1)}) == 3


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.pad_token_id, loaded.padding_side) == (1, "left")
    with pytest.raises(BadInputError, match="no tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


def test_float16_needs_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BadInputError, match="float16 needs a GPU"):
        load_base_model(snapshot(tmp_path / "m"), quick(dtype="float16"))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(BadInputError, match="not a causal language model"):
        load_base_model(tmp_path, quick())
