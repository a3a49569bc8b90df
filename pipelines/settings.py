"""Where settings come from: defaults < profile < YAML file < `HEMLINE_*` environment, and which of them won.

The model itself is `ml.settings.Settings`. Where there is a file, relative paths in it and the defaults' are relative
to its folder, so that a command finds the same tables and models from everywhere; others to the current directory.
Environment names join sections with two underscores: `HEMLINE_GENERATION__MAX_USERS=500`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ml.errors import BadInputError
from ml.secrets import is_secret_name, redact, shown
from ml.settings import Settings

PREFIX = "HEMLINE_"
FILE_VARIABLE = "HEMLINE_SETTINGS"
PROFILE_VARIABLE = "HEMLINE_PROFILE"
DEFAULT_FILE = Path("hemline.yaml")
PROFILES = Path(__file__).parent / "profiles"
_NOT_SETTINGS = {FILE_VARIABLE, PROFILE_VARIABLE}
_PATHS = ("raw_log", "catalog", "warehouse", "home", "report")


@dataclass(frozen=True)
class LoadedSettings:
    """Effective settings, where each value that is not a default came from (by dotted name), and the file."""

    settings: Settings
    sources: Mapping[str, str]
    file: Path | None


def load_settings(
    file: Path | None = None, profile: str | None = None, environment: Mapping[str, str] | None = None
) -> LoadedSettings:
    """Return the effective settings.

    `file` and `profile` default to `HEMLINE_SETTINGS` and `HEMLINE_PROFILE`, then to `hemline.yaml` in the current
    directory if there is one. Raises BadInputError that names the setting, its value, its source and what was
    expected.
    """
    environment = os.environ if environment is None else environment
    if file is None and environment.get(FILE_VARIABLE):
        file = Path(environment[FILE_VARIABLE])
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    in_file = _read_yaml(file) if file else {}
    asked = profile or environment.get(PROFILE_VARIABLE)
    profile_of_file = in_file.pop("profile", None)
    profile = asked or profile_of_file
    if profile:
        _merge(values, _read_yaml(profile_file(profile)), sources, f"profile {profile}")
    if file:
        _merge(values, in_file, sources, str(file))
    for name, raw in environment.items():
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS:
            path = name.removeprefix(PREFIX).lower().split("__")
            value = raw if is_secret_name(path[-1]) else _parse(raw)
            _merge(values, _nested(path, value), sources, f"environment {name}")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise BadInputError(_explain(error, sources)) from None
    folder = file.resolve().parent if file else Path.cwd()
    settings = settings.model_copy(update=_absolute_paths(settings, sources, folder))
    return LoadedSettings(settings.with_options(_options(file, asked)), sources, file.resolve() if file else None)


def profile_file(profile: str) -> Path:
    """Return the YAML file of a named profile; raises BadInputError with the known names."""
    path = PROFILES / f"{profile}.yaml"
    if Path(profile).name != profile or not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise BadInputError(f"profile {profile!r}: expected one of {known}")
    return path


def flatten(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every effective setting as (dotted name, value)."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _absolute_paths(settings: Settings, sources: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Return the paths, relative ones as seen from `folder`; those of the environment from the current folder."""
    absolute = {}
    for name in _PATHS:
        place = getattr(settings, name)
        if isinstance(place, Path):
            from_environment = sources.get(name, "").startswith(f"environment {PREFIX}")
            absolute[name] = ((Path.cwd() if from_environment else folder) / place.expanduser()).resolve()
    return absolute


def _options(file: Path | None, profile: str | None) -> str:
    """Return the options by which a command typed in this folder reads the same file and profile."""
    words = []
    if file and file.resolve() != DEFAULT_FILE.resolve():
        here = file.resolve()
        inside = here.is_relative_to(Path.cwd())
        words += ["--settings", str(here.relative_to(Path.cwd()) if inside else here)]
    if profile:
        words += ["--profile", profile]
    return shlex.join(words)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadInputError(f"settings file {path}: not found; `hemline init` writes one") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise BadInputError(f"settings file {path}: not readable as YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadInputError(f"settings file {path}: expected `name: value` lines, found {type(content).__name__}")
    return content


def _merge(into: dict[str, Any], new: Mapping[str, Any], sources: dict[str, str], source: str, path: str = "") -> None:
    for name, value in new.items():
        name = str(name)
        dotted = f"{path}{name}"
        if isinstance(value, Mapping) and value and dotted != "spark.conf":
            if not isinstance(into.get(name), dict):
                into[name] = {}
            _merge(into[name], value, sources, source, f"{dotted}.")
        else:
            into[name] = value
            sources[dotted] = source


def _nested(path: list[str], value: object) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value  # type: ignore[return-value]


def _parse(raw: str) -> object:
    """Read an environment value as YAML, so that lists and numbers work; text that is not YAML stays text."""
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError:
        return raw


def _explain(error: ValidationError, sources: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        setting = next((s for s in sources if name == s or name.startswith(f"{s}.") or s.startswith(f"{name}.")), name)
        where = f" (from {sources[setting]})" if setting in sources else ""
        if problem["type"] == "extra_forbidden":
            known = _known_names(problem["loc"][:-1])
            close = get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
            lines.append(f"unknown setting {name}={_input(name, problem)}{where}: {hint}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"setting {name or 'settings'}={_input(name, problem)}{where}: {message}" if name else message)
    return redact("\n".join(lines))


def _input(name: str, problem: ErrorDetails) -> str:
    """Return the value that was refused; of a setting that holds a secret by its name, that there is one."""
    return shown(name, repr(problem["input"]))


def _known_names(path: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)
