"""Nothing in the code can load a pickle from a file, and a checkpoint that somebody has swapped runs no code."""

import ast
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest

from ml.language_model import train_adapter, trainer
from tests.ml.language_model_examples import prompts, quick, snapshot

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load"),
    *("joblib.load", "pd.read_pickle", "pandas.read_pickle", "shelve.open", "marshal.loads", "yaml.load", "eval"),
    *("exec", "mlflow.pyfunc.load_model", "mlflow.pytorch.load_model", "np.memmap", "yaml.unsafe_load"),
}
NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
NEVER = {"trust_remote_code": True, "allow_pickle": True, "weights_only": False}


def loads(source):
    """Every call in a module's source that can read a pickle or code: (line, what)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            if name in FORBIDDEN:
                yield node.lineno, name
            if name in NEEDED and given.get(NEEDED[name][0]) is not NEEDED[name][1]:
                yield node.lineno, f"{name} without {NEEDED[name][0]}={NEEDED[name][1]}"
            for option, value in NEVER.items():
                if given.get(option) is value:
                    yield node.lineno, f"{option}={value}"
        elif isinstance(node, ast.ImportFrom) and node.module in ("pickle", "cloudpickle", "dill", "joblib", "marshal"):
            yield node.lineno, f"from {node.module}"


@pytest.mark.parametrize("room", ["ml", "assets", "pipelines"])
def test_no_module_loads_a_pickle(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    assert {str(path): found for path in files if (found := list(loads(path.read_text("utf-8"))))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)", "from pickle import load\nload(f)", "torch.load(p)", "np.load(p)",
        "yaml.load(t)",
        "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "pd.read_pickle(p)",
        "AutoModel.from_pretrained(p, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_search_finds_them(source):
    assert list(loads(source))
    assert not list(loads("torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nyaml.safe_load(t)"))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_swapped_checkpoint_runs_no_code(tmp_path, monkeypatch, one_thread, name):
    snapshot(tmp_path / "model")
    inputs = (tmp_path / "model", prompts(8), prompts(2, seed=1), quick(epochs=1, save_steps=1), tmp_path / "work")
    mark = trainer.mark_complete
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "mark_complete", lambda *given: (mark(*given), 1 / 0))
        with pytest.raises(ZeroDivisionError):
            train_adapter(*inputs)
    (checkpoint,) = (tmp_path / "work" / "epochs").glob("checkpoint-*")
    assert pickle.loads(pickle.dumps(Bomb(tmp_path / "it works"))) is None and (tmp_path / "it works").is_dir()
    (checkpoint / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with suppress(Exception):  # refused, or never read
        train_adapter(*inputs)
    assert not (tmp_path / "exploded").exists()
