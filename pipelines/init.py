"""`hemline init`: proposes the settings of a shop from its log and catalogue."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import yaml

from ml.errors import BadInputError
from ml.language_model import has_gpu
from ml.log import propose_settings
from pipelines.settings import profile_file


def write_settings(raw_log: Path, catalog: Path, warehouse: str, file: Path, profile: str | None = None) -> str:
    """Write a settings file for this log, this catalogue and this machine; return what was found, for people.

    Raises BadInputError if `file` exists already or `profile` is unknown.
    """
    if profile:
        profile_file(profile)
    if file.exists():
        raise BadInputError(f"{file} exists already: edit it, or write another with --file")
    proposal = propose_settings(raw_log, catalog)
    notes = [str(note) for note in proposal.pop("notes")]  # type: ignore[union-attr]
    places = {"raw_log": str(raw_log.resolve()), "catalog": str(catalog.resolve())}
    places["warehouse"] = warehouse if "://" in warehouse else str(Path(warehouse).resolve())
    if profile is None and not has_gpu():
        profile = "two_cores"
        notes.append(
            "No GPU here: profile two_cores trains the language model on a sample of the log, which takes an hour or "
            "two. `hemline settings` shows what it sets; a line below it in this file goes first."
        )
    values = {**({"profile": profile} if profile else {}), **places, **without(proposal, places)}
    header = "# Written by `hemline init`. `hemline settings` lists everything that can be set.\n"
    lines = [header, *(f"# {note}\n" for note in notes), yaml.safe_dump(values, sort_keys=False, allow_unicode=True)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines), "utf-8")
    return "\n".join([f"wrote {file}", *notes, "next: hemline train, then hemline nightly"])


def without(values: Mapping[str, object], names: Collection[str]) -> dict[str, object]:
    """Return `values` without `names`."""
    return {name: value for name, value in values.items() if name not in names}
