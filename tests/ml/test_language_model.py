"""Fine-tuning tiny models of four families: what is trained, on what loss, and what comes out."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError, HemlineError
from ml.language_model import load_adapted_model, load_base_model, number_type, plot_losses, slow_fit, train_adapter
from ml.language_model.adapter import add_lora, block_path, lora_targets
from ml.language_model.batches import IGNORED, LengthGroupedOrder, PromptTokens, collate, length_sorted_batches
from ml.language_model.likelihood import negative_log_likelihoods, response_logits
from ml.language_model.training import hardest_rows
from tests.ml.language_model_examples import FAMILIES, VOCABULARY, Recorder, prompts, quick, snapshot, tiny_model

LINEAR = {
    "falcon": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
}
LINEAR["qwen2"] = LINEAR["llama"]
LINEAR["falcon_alibi"] = LINEAR["falcon"]


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are slower on several threads, and much slower where the cores are taken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch_of(table):
    tokens = PromptTokens(table)
    return collate([tokens[row] for row in range(len(tokens))])


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_targets_are_every_linear_layer_of_the_newest_blocks_and_no_head(family):
    model = tiny_model(family, layers=3)
    every, newest = lora_targets(model), lora_targets(model, trained_layers=2)
    assert {name.rpartition(".")[2] for name in every} == LINEAR[family]
    assert len(every) == 3 * len(LINEAR[family])
    assert newest == [n for n in every if not n.startswith(f"{block_path(model)}.0.")]
    adapted = add_lora(model, quick(trained_layers=2))
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(newest)
    assert all("lora_" in n for n in trained)


def test_frozen_lower_blocks_keep_no_graph():
    model = add_lora(tiny_model("llama", layers=4), quick(trained_layers=1))
    needs_gradient = []
    for block in model.get_submodule(block_path(model)):
        block.register_forward_hook(lambda _m, _i, out: needs_gradient.append(out.requires_grad))
    response_logits(model, batch_of(prompts(3)))
    assert needs_gradient == [False, False, False, True]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_response_only_logits_and_loss_equal_the_full_ones(family, adapted):
    model = tiny_model(family)
    if adapted:
        model = add_lora(model, quick())
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.1)
        model.eval()
    table = prompts(5)
    batch = batch_of(table)
    rows = []
    with torch.no_grad():
        logits, targets = response_logits(model, batch)
        losses = negative_log_likelihoods(model, batch)
        for ids, response in zip(table["input_ids"].to_pylist(), table["response_ids"].to_pylist(), strict=True):
            full = model(torch.tensor([ids + response])).logits[0]  # no padding at all, every position's logits
            rows.append(full[len(ids) - 1 : -1])
            expected = torch.nn.functional.cross_entropy(rows[-1], torch.tensor(response))
            assert losses[len(rows) - 1].item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(logits, torch.cat(rows), atol=1e-5, rtol=1e-4)
    assert targets.tolist() == [t for r in table["response_ids"].to_pylist() for t in r]


def test_the_output_head_runs_at_response_positions_only():
    model, batch, seen = tiny_model("llama"), batch_of(prompts(4)), []
    model.lm_head.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].reshape(-1, 32).shape[0]))
    response_logits(model, batch)
    assert seen == [(batch["labels"] != IGNORED).sum().item()]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_loss_and_the_adapter_loads_again(family, tmp_path):
    model_folder, config = snapshot(tmp_path / "model", family), quick(batch_size=8)
    train, validation, recorder = prompts(48), prompts(8, seed=9), Recorder()
    result = train_adapter(model_folder, train, validation, config, tmp_path / "work", recorder)
    losses = [loss for _, loss in result.losses]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert [step for step, _ in result.losses] == list(range(1, 12 + 4 + 1))
    assert [v for n, v, _ in recorder.values if n == "loss"] == losses
    assert result.validation_loss == min(loss for _, loss in result.validation)

    # The saved adapter gives the perplexities' model back: its validation loss is the reported one.
    adapted = load_adapted_model(model_folder, result.folder, config)
    assert not adapted.training
    with torch.no_grad():
        logits, targets = response_logits(adapted, batch_of(validation))
    assert torch.nn.functional.cross_entropy(logits, targets).item() == pytest.approx(result.validation_loss, abs=1e-4)
    assert {p.name for p in result.folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert str(tmp_path) not in (result.folder / "adapter_config.json").read_text()


def test_the_phase_with_the_lower_validation_loss_is_kept_unless_the_last_is_asked_for(tmp_path):
    train, validation, config = prompts(12), prompts(4, seed=9), quick()
    folder, work = snapshot(tmp_path / "model"), tmp_path / "work"
    train_adapter(folder, train, validation, config, work)
    for better, worse in (("epochs", "hardest"), ("hardest", "epochs")):
        for name, loss in ((better, 1.0), (worse, 2.0)):
            done = json.loads((work / name / "done.json").read_text())
            (work / name / "done.json").write_text(json.dumps(done | {"validation": loss}))
        result = train_adapter(folder, train, validation, config, work)
        assert (result.folder, result.validation_loss) == (work / better / "adapter", 1.0)
        last = train_adapter(folder, train, validation, config.model_copy(update={"keep": "last"}), work)
        assert last.folder == work / "hardest" / "adapter"
        assert last.validation_loss == (2.0 if worse == "hardest" else 1.0)


def test_both_phases_their_perplexities_and_counts(tmp_path):
    train, config = prompts(21), quick(hard_share=0.2, hard_epochs=3, epochs=1, lora_dropout=0.0)
    folder = snapshot(tmp_path / "model")
    result = train_adapter(folder, train, prompts(0), config, tmp_path / "work")
    assert result.validation_loss is None and result.validation == []
    table = result.perplexity
    assert table["example_id"].to_pylist() == train["example_id"].to_pylist()
    values, longer = table["perplexity"].to_numpy(), table["trained_longer"].to_numpy(zero_copy_only=False)
    assert longer.sum() == 5  # a fifth of 21, rounded up
    assert values[longer].min() >= values[~longer].max()
    lengths = PromptTokens(train).lengths
    assert result.tokens == lengths.sum() + 3 * lengths[longer].sum()
    assert len(result.losses) == 6 + 3 * 2

    # The perplexities are those of the model after the first phase, which hard_epochs=0 ends with.
    first = train_adapter(folder, train, prompts(0), config.model_copy(update={"hard_epochs": 0}), tmp_path / "first")
    assert not any(first.perplexity["trained_longer"].to_pylist())
    assert len(first.losses) == 6
    model, batch = load_adapted_model(folder, first.folder, config), batch_of(train)
    with torch.no_grad():
        expected = negative_log_likelihoods(model, batch).exp().numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_same_seed_same_losses_other_seed_others(tmp_path):
    folder = snapshot(tmp_path / "model")
    runs = [
        train_adapter(folder, prompts(16), prompts(0), quick(seed=seed), tmp_path / str(number))
        for number, seed in enumerate((3, 3, 4))
    ]
    assert runs[0].losses == runs[1].losses
    assert runs[0].losses != runs[2].losses
    assert runs[0].perplexity == runs[1].perplexity
    first, second = ((r.folder / "adapter_model.safetensors").read_bytes() for r in runs[:2])
    assert first == second


def test_accumulated_batches_train_as_one_large_batch_does(tmp_path):
    folder = snapshot(tmp_path / "model")
    settings_ = dict(lora_dropout=0.0, hard_epochs=0, learning_rate=1e-3)
    whole = train_adapter(folder, prompts(16), prompts(0), quick(batch_size=8, **settings_), tmp_path / "whole")
    parts = quick(batch_size=2, gradient_accumulation=4, **settings_)
    split = train_adapter(folder, prompts(16), prompts(0), parts, tmp_path / "split")
    np.testing.assert_allclose([x for _, x in whole.losses], [x for _, x in split.losses], rtol=1e-4)


def test_a_finished_run_is_returned_without_training_and_other_inputs_start_afresh(tmp_path, monkeypatch):
    folder, train, config = snapshot(tmp_path / "model"), prompts(8), quick(epochs=1, hard_epochs=0)
    first = train_adapter(folder, train, prompts(0), config, tmp_path / "work")
    with monkeypatch.context() as patched:
        patched.setattr("ml.language_model.training.load_base_model", lambda *_: pytest.fail("loaded again"))
        again = train_adapter(folder, train, prompts(0), config, tmp_path / "work")
        assert (again.losses, again.perplexity, again.seconds) == (first.losses, first.perplexity, first.seconds)
        for other in [
            (folder, prompts(8, seed=1), config),
            (folder, train, config.model_copy(update={"learning_rate": 0.01})),
            (snapshot(tmp_path / "other", seed=1), train, config),
        ]:
            with pytest.raises(pytest.fail.Exception, match="loaded again"):
                train_adapter(other[0], other[1], prompts(0), other[2], tmp_path / "work")


@pytest.mark.parametrize(
    ("instructions", "numbers"),
    [({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "bfloat16"), ({"avx2": True}, "float32")],
)
def test_auto_is_the_very_run_in_the_numbers_that_the_cpu_multiplies(instructions, numbers, tmp_path, monkeypatch):
    monkeypatch.setattr("ml.language_model.loading.has_gpu", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    folder, train = snapshot(tmp_path / "model"), prompts(8)
    automatic = train_adapter(folder, train, prompts(0), quick(dtype="auto"), tmp_path / "work")
    assert load_base_model(folder, quick(dtype="auto")).dtype == getattr(torch, numbers)
    for other in {"float32", "bfloat16"} - {numbers}:
        assert train_adapter(folder, train, prompts(0), quick(dtype=other), tmp_path / other).losses != automatic.losses
    monkeypatch.setattr("ml.language_model.training.load_base_model", lambda *_: pytest.fail("trained again"))
    named = train_adapter(folder, train, prompts(0), quick(dtype=numbers), tmp_path / "work")
    assert named.losses == automatic.losses


def test_auto_on_this_machine_is_one_that_loads(tmp_path):
    config = quick(dtype="auto")
    assert number_type(config) in ("float32", "bfloat16")
    assert load_base_model(snapshot(tmp_path / "model"), config).dtype == getattr(torch, number_type(config))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nf4_trains_on_this_machine(dtype, tmp_path):
    import bitsandbytes as bnb

    folder = snapshot(tmp_path / "model")
    config = quick(quantization="nf4", dtype=dtype, batch_size=8)
    model = load_base_model(folder, config)
    assert isinstance(model.get_submodule(lora_targets(model)[0]), bnb.nn.Linear4bit)
    assert lora_targets(model) == lora_targets(tiny_model("llama"))
    result = train_adapter(folder, prompts(48), prompts(8, seed=9), config, tmp_path / "work")
    losses = [loss for _, loss in result.losses]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    adapted = load_adapted_model(folder, result.folder, config)
    with torch.no_grad():
        losses = negative_log_likelihoods(adapted, batch_of(prompts(8, seed=9)))
    assert bool(torch.isfinite(losses).all())


def test_nf4_weights_stay_as_they_are_through_the_perplexities(tmp_path, monkeypatch):
    """A run that stops after the perplexities and goes on, with its weights loaded anew, ends as an unbroken one."""
    folder, config = snapshot(tmp_path / "model", hidden=64), quick(quantization="nf4", dtype="bfloat16", epochs=1)
    unbroken = train_adapter(folder, prompts(12), prompts(0), config, tmp_path / "unbroken")
    with monkeypatch.context() as patched:
        patched.setattr("ml.language_model.training.hardest_rows", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception, match="stopped"):
            train_adapter(folder, prompts(12), prompts(0), config, tmp_path / "stopped")
    resumed = train_adapter(folder, prompts(12), prompts(0), config, tmp_path / "stopped")
    assert resumed.losses == unbroken.losses
    first, second = ((r.folder / "adapter_model.safetensors").read_bytes() for r in (unbroken, resumed))
    assert first == second


def test_gradient_checkpointing_changes_memory_not_results(tmp_path):
    folder = snapshot(tmp_path / "model")
    plain, saving = (
        train_adapter(
            folder, prompts(8), prompts(0), quick(gradient_checkpointing=flag, trained_layers=1), tmp_path / str(flag)
        )
        for flag in (False, True)
    )
    np.testing.assert_allclose([x for _, x in plain.losses], [x for _, x in saving.losses], rtol=1e-5)


def test_divergence_is_an_error_that_says_where_and_what_to_try(tmp_path):
    folder = snapshot(tmp_path / "model")
    with pytest.raises(HemlineError, match=r"step \d+: .*learning_rate \(now 1e\+20\)"):
        train_adapter(folder, prompts(16), prompts(0), quick(learning_rate=1e20, warmup_share=0), tmp_path / "work")


def test_bad_prompts_are_refused_by_name(tmp_path):
    folder, config = snapshot(tmp_path / "model"), quick()
    with pytest.raises(BadInputError, match="no training prompts"):
        train_adapter(folder, prompts(0), prompts(0), config, tmp_path / "work")
    rows = prompts(3).to_pylist()
    rows[1]["response_ids"] = []
    with pytest.raises(BadInputError, match="e0001: response_ids is empty"):
        train_adapter(folder, pa.Table.from_pylist(rows, prompts(0).schema), prompts(0), config, tmp_path / "work")
    rows[1]["response_ids"] = [VOCABULARY]
    with pytest.raises(BadInputError, match=f"e0001: token id {VOCABULARY} is not in the model's vocabulary"):
        train_adapter(folder, pa.Table.from_pylist(rows, prompts(0).schema), prompts(0), config, tmp_path / "work")


def test_two_runs_never_share_a_work_folder(tmp_path):
    from filelock import FileLock

    folder = snapshot(tmp_path / "model")
    (tmp_path / "work").mkdir()
    with FileLock(tmp_path / "work" / ".lock"), pytest.raises(HemlineError, match="another run is training here"):
        train_adapter(folder, prompts(4), prompts(0), quick(), tmp_path / "work")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=400), st.integers(1, 16), st.integers(0, 3))
def test_the_order_is_a_permutation_with_little_padding_and_depends_on_seed_and_epoch_alone(lengths, size, epoch):
    order = LengthGroupedOrder(np.array(lengths), size, seed=5)
    order.set_epoch(epoch)
    rows = list(order)
    assert sorted(rows) == list(range(len(lengths)))
    again = LengthGroupedOrder(np.array(lengths), size, seed=5)
    again.set_epoch(epoch)
    assert list(again) == rows
    if len(lengths) <= 32 * size:  # one group: the full batches do not overlap in length
        whole = len(rows) // size * size
        spans = sorted((min(b), max(b)) for b in np.array(lengths)[rows[:whole]].reshape(-1, size))
        assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_epochs_are_ordered_differently():
    order = LengthGroupedOrder(np.arange(64), 4, seed=0)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=100), st.integers(1, 16))
def test_evaluation_batches_cover_every_row_once_longest_first(lengths, size):
    batches = length_sorted_batches(np.array(lengths, dtype=np.int64), size)
    rows = [int(r) for b in batches for r in b]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[r] for r in rows] == sorted(lengths, reverse=True)
    assert all(len(b) <= size for b in batches)


def test_hardest_rows_breaks_ties_by_example_whatever_the_order():
    table = prompts(6)
    losses = np.array([1.0, 3.0, 2.0, 2.0, 2.0, 0.0])
    assert hardest_rows(losses, table, 0.5).tolist() == [1, 2, 3]
    assert hardest_rows(losses, table, 0.0).tolist() == []
    reverse = table.take(list(range(5, -1, -1)))
    assert hardest_rows(losses[::-1], reverse, 0.5).tolist() == [2, 3, 4]


def test_a_figure_shows_both_curves():
    figure = plot_losses([(1, 3.0), (2, 2.5)], [(2, 2.7)])
    axes = figure.axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 3.0], [2, 2.5]], [[2, 2.7]]]
    assert "nats" in axes.get_ylabel()


def test_importing_the_package_is_light():
    import subprocess
    import sys

    code = "import sys, json, ml.language_model; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "peft", "matplotlib", "accelerate"} & set(json.loads(done.stdout))


def test_a_fit_of_many_hours_is_told_before_it_begins(monkeypatch):
    few = prompts(8)
    monkeypatch.setattr("ml.language_model.expected.has_gpu", lambda: False)
    assert slow_fit(few, quick()) is None
    many = pa.concat_tables([few] * 100_000)
    assert "800,000 prompts" in (said := slow_fit(many, quick()) or "") and "prompts.max_train" in said
    monkeypatch.setattr("ml.language_model.expected.has_gpu", lambda: True)
    assert slow_fit(many, quick()) is None
