"""Registered models in MLflow: which versions there are, which one is in use, and where their files lie.

The alias `champion` names the version that nightly tables use, and each promoted version's tags name the one it
replaced.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from ml.errors import BadInputError, HemlineError
from ml.models.run import TrackedRun
from ml.models.version import MODEL_PATH, ModelVersion, local_folder, registered_name
from ml.secrets import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

EXPERIMENT = "hemline"
CHAMPION = "champion"
PROMOTED_OVER = "promoted_over"
"""Tag of a promoted version: the version that was in use before it, or `NOTHING`."""
ROLLED_BACK = "rolled_back_at"
"""Tag of a version that a person took out of use: when. It is never promoted again."""
FILES_REMOVED = "files_removed_at"
"""Tag of a version whose files are no longer kept: when they went."""
NOTHING = "none"


class ModelRegistry:
    """Hemline's experiment and registered models on one MLflow tracking server or database.

    `artifact_root` is where the experiment keeps its files when the tracking URI is a local database; a server decides
    that itself. `cache` holds downloaded model folders when they do not lie on a local disk. No global MLflow setting
    is read or changed.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path, cache: Path) -> None:
        self.tracking_uri = tracking_uri
        self._cache = cache
        self._artifact_root = artifact_root.expanduser().absolute()

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; made when first used, so that a code location loads without MLflow."""
        from mlflow import MlflowClient

        if self.tracking_uri.startswith("sqlite:///"):
            Path(self.tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    @cached_property
    def experiment_id(self) -> str:
        """Hemline's experiment, made if there is none."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            remote = urlparse(self.tracking_uri).scheme in ("http", "https", "databricks")
            try:
                return self.client.create_experiment(EXPERIMENT, None if remote else self._artifact_root.as_uri())
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(EXPERIMENT)  # another process was faster
        if found is None:
            raise HemlineError(
                f"MLflow at {self.tracking_uri}: experiment {EXPERIMENT!r} can neither be found nor made"
            )
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    @contextmanager
    def run(
        self, kind: str, scope: str, *, tags: Mapping[str, str], params: Mapping[str, object]
    ) -> Iterator[TrackedRun]:
        """An MLflow run of its own; FINISHED at the end, FAILED with the error's name in a tag when the body raises."""
        every_tag = {
            "mlflow.runName": f"{kind} {scope}",
            "mlflow.source.name": "hemline",
            **{name: str(value) for name, value in tags.items()},
            "kind": kind,
            "scope": scope,
        }
        run_id = self.client.create_run(self.experiment_id, tags=every_tag).info.run_id
        tracked = TrackedRun(self, run_id, kind, scope, {**dict(tags), "kind": kind, "scope": scope})
        try:
            tracked.params(params)
            yield tracked
            tracked.flush()
        except BaseException as error:
            # The body's own error is what matters: a server that is gone as well must not hide it.
            try:
                tracked.flush()
                self.client.set_tag(run_id, "error", redact(f"{type(error).__name__}: {error}")[:500])
                self.client.set_terminated(run_id, "FAILED")
            except Exception as second:
                error.add_note(f"MLflow run {run_id} could not be marked FAILED: {second}")
            raise
        self.client.set_terminated(run_id, "FINISHED")

    def champion(self, kind: str, scope: str) -> ModelVersion | None:
        """The version in use, its files on a local disk; None where none was promoted yet."""
        version = self.used_version(kind, scope)
        return None if version is None else self.version(kind, scope, version)

    def used_version(self, kind: str, scope: str) -> str | None:
        """The number of the version in use, whether or not its files are still there."""
        from mlflow.exceptions import MlflowException

        try:
            model = self.client.get_registered_model(registered_name(kind, scope))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        version = model.aliases.get(CHAMPION)
        return None if version is None else str(version)

    def version(self, kind: str, scope: str, version: str) -> ModelVersion:
        """A registered version, its files on a local disk. Raises `BadInputError` if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version(registered_name(kind, scope), version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise BadInputError(f"no version {version} of model {kind} for {scope!r} is registered") from error
        return ModelVersion(kind, scope, str(found.version), self._folder(found), found.run_id or "", dict(found.tags))

    def versions(self, kind: str, scope: str) -> list[MlflowVersion]:
        """Every registered version, newest first, without its files; empty where none was registered yet."""
        found, token = [], None
        while True:
            query = f"name = '{registered_name(kind, scope)}'"
            page = self.client.search_model_versions(query, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return sorted(found, key=lambda version: -int(version.version))

    def tags_of(self, kind: str, scope: str, version: str) -> dict[str, str]:
        """The tags of a registered version, whether or not its files are still there."""
        return dict(self.client.get_model_version(registered_name(kind, scope), version).tags)

    def models(self) -> list[tuple[str, str]]:
        """Kind and scope of every registered model of Hemline, sorted."""
        found, token = [], None
        while True:
            page = self.client.search_registered_models("name LIKE 'hemline-%'", max_results=100, page_token=token)
            found += [(model.tags["kind"], model.tags["scope"]) for model in page if "kind" in model.tags]
            token = page.token
            if not token:
                return sorted(found)

    def has_files(self, found: MlflowVersion) -> bool:
        """Whether a version's files are still there; of those that a server holds, whether they were not removed."""
        folder = local_folder(found)
        return FILES_REMOVED not in found.tags if folder is None else folder.is_dir()

    def files_size(self, found: MlflowVersion) -> int | None:
        """Bytes of a version's files; None where a server holds them."""
        folder = local_folder(found)
        return None if folder is None else sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def remove_files(self, found: MlflowVersion) -> None:
        """Remove a version's files, wherever they lie; the version stays registered, and a tag says when they went."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.client.set_model_version_tag(found.name, str(found.version), FILES_REMOVED, now())
        folder = local_folder(found)
        if folder is None:
            run, _, name = (found.source or "").rpartition("/")
            get_artifact_repository(run, tracking_uri=self.tracking_uri).delete_artifacts(name)
            shutil.rmtree(self._cached(found), ignore_errors=True)
            return
        going = folder.with_name(f".{folder.name}.removed")  # a half-deleted folder must not be taken for a model
        shutil.rmtree(going, ignore_errors=True)
        folder.rename(going)
        shutil.rmtree(going)

    def tag(self, kind: str, scope: str, version: str, **tags: str) -> None:
        """Write tags of a registered version."""
        for key, value in tags.items():
            self.client.set_model_version_tag(registered_name(kind, scope), version, key, value)

    def promote(self, model: ModelVersion) -> None:
        """Make the version the one in use: notes in its tags what it replaces, then moves the alias `champion`.

        The alias moves last and in one step: whatever fails before it leaves the old version in use. Raises
        HemlineError for a version that was rolled back.
        """
        name = registered_name(model.kind, model.scope)
        used = self.used_version(model.kind, model.scope)
        if used == model.version:
            return
        if ROLLED_BACK in self.client.get_model_version(name, model.version).tags:
            raise HemlineError(f"{model.kind} {model.version} for {model.scope!r} was rolled back: fit a new version")
        self.tag(model.kind, model.scope, model.version, promoted_at=now(), **{PROMOTED_OVER: used or NOTHING})
        self.client.set_registered_model_alias(name, CHAMPION, model.version)

    def _folder(self, found: MlflowVersion) -> Path:
        """The version's folder: where it lies if that is a local disk, else in the cache, downloaded once."""
        folder = local_folder(found)
        if FILES_REMOVED in found.tags:
            raise HemlineError(
                f"the files of {found.name} version {found.version} were removed on {found.tags[FILES_REMOVED]} "
                "(settings `retention`): fit a new version"
            )
        if folder is not None:
            if not folder.is_dir():
                raise HemlineError(f"the files of {found.name} version {found.version} are gone: expected {folder}")
            return folder
        folder = self._cached(found)
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as work:
                got = Path(self.client.download_artifacts(found.run_id or "", MODEL_PATH, work))
                try:
                    got.rename(folder)
                except OSError:
                    if not folder.is_dir():  # no other process was faster: a real failure
                        raise
        return folder

    def _cached(self, found: MlflowVersion) -> Path:
        # The run's id tells versions apart that different servers number alike.
        return self._cache / found.name / f"{found.version}-{found.run_id}"


def now() -> str:
    """The time as tags have it: ISO, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
