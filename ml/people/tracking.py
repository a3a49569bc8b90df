"""Customers taken out of what MLflow keeps beside the models: tags, and the tables and texts among the artifacts."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.people.scrub import FORGOTTEN, Scrub

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ml.models.registry import ModelRegistry

_READ = {".json", ".jsonl", ".csv", ".md", ".txt", ".parquet"}
_ANSWER = re.compile(r"^bought: (?P<bought>.*)\n(?:wrote: .*\n?)?", re.M)
"""What `ml.fits.answers.example_answers` writes of one purchase."""


def remove_from_runs(registry: ModelRegistry, scrub: Scrub, titles: Collection[str]) -> dict[str, int]:
    """Return how many artifacts and tags of Hemline's runs were written anew without the customers.

    Of example answers those to a purchase of one of `titles`, the titles they bought, are taken out: they do not say
    whose purchase it was. Files of models hold no customer: items, weights and word pieces.
    """
    client, counts = registry.client, {"mlflow artifacts": 0, "mlflow tags": 0}
    for run in _runs(client, registry.experiment_id):
        for path in _artifacts(client, run.info.run_id):
            counts["mlflow artifacts"] += _rewrite(client, run.info.run_id, path, scrub, titles)
        own = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
        changed = {name: clean for name, value in own.items() if (clean := scrub(value)) != value}
        if changed:
            _set_tags(client, run, changed)
            counts["mlflow tags"] += len(changed)
    return {place: count for place, count in counts.items() if count}


def _runs(client: MlflowClient, experiment: str) -> Iterator[Any]:
    from mlflow.entities import ViewType

    token = None
    while True:
        page = client.search_runs([experiment], run_view_type=ViewType.ALL, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _set_tags(client: MlflowClient, run: Any, tags: Mapping[str, str]) -> None:
    """Write tags of a run; one that was deleted is restored meanwhile, because MLflow refuses them until then."""
    deleted = run.info.lifecycle_stage == "deleted"
    if deleted:
        client.restore_run(run.info.run_id)
    try:
        for name, value in tags.items():
            client.set_tag(run.info.run_id, name, value)
    finally:
        if deleted:
            client.delete_run(run.info.run_id)


def _artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for found in client.list_artifacts(run_id, folder):
        if found.is_dir and found.path != "model":
            yield from _artifacts(client, run_id, found.path)
        elif not found.is_dir and Path(found.path).suffix in _READ:
            yield found.path


def _rewrite(client: MlflowClient, run_id: str, path: str, scrub: Scrub, titles: Collection[str]) -> bool:
    """Write an artifact without the customers, if they are in it; return whether they were."""
    with tempfile.TemporaryDirectory() as work:
        file = Path(client.download_artifacts(run_id, path, work))
        content = file.read_bytes()
        clean = clean_file(file.suffix, content, scrub, titles)
        if clean == content:
            return False
        changed = Path(work, "changed", file.name)  # the download may be the artifact itself
        changed.parent.mkdir()
        changed.write_bytes(clean)
        parent = Path(path).parent.as_posix()
        client.log_artifact(run_id, str(changed), None if parent == "." else parent)
    return True


def clean_file(kind: str, content: bytes, scrub: Scrub, titles: Collection[str] = ()) -> bytes:
    """Return a file's bytes without the customers: the very same where they are not in it. `kind` is its suffix."""
    if kind == ".parquet":
        return _clean_parquet(content, scrub)
    text = content.decode("utf-8", "surrogateescape")
    clean = {".json": _clean_json, ".csv": _clean_csv}.get(kind, _clean_text)(text, scrub, titles)
    return content if clean == text else clean.encode("utf-8", "surrogateescape")


def _clean_json(text: str, scrub: Scrub, titles: Collection[str]) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return _clean_text(text, scrub, titles)
    rows = (
        [row for row in value if not (isinstance(row, dict) and scrub.names(row))] if isinstance(value, list) else value
    )
    clean = scrub.value(rows, free=True)
    return text if clean == value else json.dumps(clean)


def _clean_csv(text: str, scrub: Scrub, titles: Collection[str]) -> str:
    rows = list(csv.reader(io.StringIO(text, newline="")))
    kept = [row for row in rows if not set(row) & scrub.ids]
    if len(kept) == len(rows):
        return _clean_text(text, scrub, titles)
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(kept)
    return scrub(out.getvalue())


def _clean_text(text: str, scrub: Scrub, titles: Collection[str]) -> str:
    def answer(match: re.Match[str]) -> str:
        return f"bought: {FORGOTTEN}\n" if any(title in match["bought"] for title in titles) else match.group()

    return scrub(_ANSWER.sub(answer, text))


def _clean_parquet(content: bytes, scrub: Scrub) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(pa.BufferReader(content))
    theirs = [scrub.names(row) for row in rows.to_pylist()]
    if not any(theirs):
        return content
    out = pa.BufferOutputStream()
    pq.write_table(rows.filter(pa.array([not one for one in theirs], pa.bool_())), out)
    return out.getvalue().to_pybytes()
