"""One of the processes that `ml.language_model.launching` starts: `python -m ml.language_model.launched FOLDER`."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pyarrow.feather as feather

from ml.errors import HemlineError
from ml.files import read_json
from ml.language_model.launching import write_error, write_result
from ml.language_model.training import train_adapter
from ml.settings import LanguageModelSettings


class _MetricsFile:
    """Appends metrics to a file, a line each, where the launching process reads them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Append one value."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, value, step]) + "\n")


def main(folder: Path) -> None:
    """Train what `folder` asks for; the first process writes what came out."""
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    request = read_json(folder / "request.json")
    train, validation = (feather.read_table(str(folder / f"{n}.arrow")) for n in ("train", "validation"))
    settings = LanguageModelSettings.model_validate(request["settings"])
    metrics = _MetricsFile(folder / "metrics.jsonl")
    try:
        result = train_adapter(Path(request["model_folder"]), train, validation, settings, folder.parent, metrics)
    except HemlineError as error:
        write_error(folder, error)
        raise
    if os.environ.get("RANK", "0") == "0":
        write_result(folder, result)


def _end_with_the_launcher() -> None:
    """End this process when the one that launched it is gone: nobody else holds the other end of standard input."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
