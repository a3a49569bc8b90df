"""A run in MLflow while it goes on: what was trained, from what, how it went, and the model that came of it."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from csv import QUOTE_NONNUMERIC
from pathlib import Path
from typing import TYPE_CHECKING

from ml.errors import BadInputError
from ml.models.files import check_plain_files, content_hash
from ml.models.version import MODEL_PATH, ModelVersion, registered_name

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure
    from mlflow.entities import Metric

    from ml.models.registry import ModelRegistry

_METRICS_A_BATCH = 200
_SECONDS_A_BATCH = 5.0


class TrackedRun:
    """One MLflow run while it goes on. Metrics are sent in batches; everything else at once."""

    def __init__(self, registry: ModelRegistry, run_id: str, kind: str, scope: str, tags: Mapping[str, str]) -> None:
        self.run_id = run_id
        self._registry = registry
        self._client = registry.client
        self._kind = kind
        self._scope = scope
        self._tags = dict(tags)
        self._waiting: list[Metric] = []
        self._sent = time.monotonic()

    def tags(self, values: Mapping[str, str]) -> None:
        """Write tags of the run."""
        for name, value in values.items():
            self._client.set_tag(self.run_id, name, value)

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters; groups become dotted names, long values are cut at MLflow's limit."""
        from mlflow.entities import Param

        flat = [Param(_plain_name(name), str(value)[:6000]) for name, value in _flatten(values)]
        for start in range(0, len(flat), 100):
            self._client.log_batch(self.run_id, params=flat[start : start + 100])

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Log one value; '@' in a name becomes '_at_', which MLflow allows."""
        self.metrics({name: value}, step)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log several values of one step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(_plain_name(name), float(value), now, step or 0) for name, value in values.items()]
        if len(self._waiting) >= _METRICS_A_BATCH or time.monotonic() - self._sent > _SECONDS_A_BATCH:
            self.flush()

    def flush(self) -> None:
        """Send the metrics that wait."""
        waiting, self._waiting, self._sent = self._waiting, [], time.monotonic()
        for start in range(0, len(waiting), 1000):
            self._client.log_batch(self.run_id, metrics=waiting[start : start + 1000])

    def figure(self, figure: Figure, name: str) -> None:
        """Log a matplotlib figure, e.g. as 'loss.png'."""
        self._client.log_figure(self.run_id, figure, name)

    def text(self, text: str, name: str) -> None:
        """Log a text, e.g. as 'examples.md'."""
        self._client.log_text(self.run_id, text, name)

    def table(self, rows: pa.Table | pd.DataFrame, name: str) -> None:
        """Log rows as '<name>.csv' (shown by the UI), '.json' or '.parquet', by the name's ending."""
        import pandas as pd

        frame = rows if isinstance(rows, pd.DataFrame) else rows.to_pandas()
        writers = {
            ".csv": lambda path: (
                frame.map(_inert).rename(columns=_inert).to_csv(path, index=False, quoting=QUOTE_NONNUMERIC)
            ),
            ".json": lambda path: frame.to_json(path, orient="records", date_format="iso"),
            ".parquet": lambda path: frame.to_parquet(path, index=False),
        }
        target = Path(name)
        if target.suffix not in writers:
            raise BadInputError(f"table {name!r}: expected a name that ends in {', '.join(writers)}")
        with tempfile.TemporaryDirectory() as work:
            path = Path(work, target.name)
            writers[target.suffix](path)
            parent = target.parent.as_posix()
            self._client.log_artifact(self.run_id, str(path), None if parent == "." else parent)

    def register(self, folder: Path, **tags: str) -> ModelVersion:
        """Log the folder's files and register them as a new version, tagged with the run's tags and `tags`.

        The tag `content` is a hash of the files: versions of equal content are the same model.

        Raises `BadInputError` for a folder that is empty or holds anything but plain files (`PLAIN_FILES`): pickles
        (.pkl, .pt, .bin, object arrays) run code when they are read.
        """
        check_plain_files(folder)
        self.flush()
        self._client.log_artifacts(self.run_id, str(folder), MODEL_PATH)
        name = registered_name(self._kind, self._scope)
        self._ensure_model(name)
        content = {"content": content_hash(folder)}
        every_tag = {key: str(value) for key, value in {**self._tags, **tags, **content}.items()}
        source = f"{self._client.get_run(self.run_id).info.artifact_uri}/{MODEL_PATH}"
        made = self._client.create_model_version(name, source=source, run_id=self.run_id, tags=every_tag)
        return self._registry.version(self._kind, self._scope, str(made.version))

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name, tags={"kind": self._kind, "scope": self._scope})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _inert(value: object) -> object:
    """Return a text that a spreadsheet would take for a formula behind an apostrophe, which makes it text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value


def _flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain_name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))
