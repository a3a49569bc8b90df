"""`hemline rollback` and `hemline lineage`: the way back to an earlier model, and what made a customer's list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from assets.common import scope_of
from ml.settings import Settings
from ml.warehouse import open_warehouse
from pipelines.flows import known_categories
from pipelines.resources import model_registry
from pipelines.run import dagster_home

if TYPE_CHECKING:
    from ml.models.champions import Rollback
    from ml.night.lineage import ListLineage, ModelLine


def roll_back(settings: Settings, kind: str, categories: Sequence[str] = ()) -> list[Rollback]:
    """Put the version of `kind` into use that was in use before, for the models that serve `categories` (default: all).

    Either all of them can be rolled back or none is. Raises BadInputError for an unknown kind or category, or where a
    model has no earlier version.
    """
    from ml.models.champions import rollback, rollback_target

    registry = model_registry(settings)
    scopes = list(dict.fromkeys(model_scopes(settings, categories).values()))
    for scope in scopes:
        rollback_target(registry, kind, scope)
    return [rollback(registry, kind, scope) for scope in scopes]


def model_scopes(settings: Settings, categories: Sequence[str] = ()) -> dict[str, str]:
    """Return the model partition that serves each of `categories` (default: all); raises BadInputError for another."""
    chosen, warehouse = known_categories(settings, categories), open_warehouse(settings)
    return {category: scope_of(settings, warehouse, category) for category in chosen}


def print_rollbacks(console: Console, settings: Settings, done: Sequence[Rollback]) -> None:
    """Print which version serves which categories now, and what was fitted on the one that is left."""
    served = model_scopes(settings)
    for one in done:
        names = ", ".join(category for category, scope in served.items() if scope == one.scope)
        console.print(
            f"{one.kind} of {names}: version {one.before} → {one.after}, from the next night on", markup=False
        )
    if any(one.kind in ("title_encoder", "item_embeddings") for one in done):
        console.print("The ranker was fitted beside the version left; `hemline train` fits it anew.", markup=False)


@dataclass(frozen=True)
class TableRun:
    """The Dagster run that published a day's `recommendations` last, when, and with which code and settings."""

    run_id: str
    time: str
    code_version: str | None
    settings_hash: str | None


def table_run(settings: Settings, day: str) -> TableRun | None:
    """Return the newest run that made the day's `recommendations`; None where Dagster has no record of one."""
    import dagster as dg

    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("recommendations"), asset_partitions=[day])
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        records = instance.fetch_materializations(wanted, limit=1).records
    if not records or records[0].asset_materialization is None:
        return None
    shown = records[0].asset_materialization.metadata
    code, made_with = (str(shown[n].value) if n in shown else None for n in ("code_version", "settings_hash"))
    time = datetime.fromtimestamp(records[0].timestamp, UTC).isoformat(timespec="seconds")
    return TableRun(records[0].run_id, time, code, made_with)


def print_lineage(console: Console, settings: Settings, user: str, day: str, categories: Sequence[str] = ()) -> None:
    """Print what made a customer's lists of a day; raises BadInputError where there is no such day or customer."""
    from ml.night.lineage import lineage

    scopes = model_scopes(settings, categories)
    lists = lineage(settings, open_warehouse(settings), model_registry(settings), scopes, user, day)
    runs = {made: table_run(settings, made) for made in {one.listed_on for one in lists}}
    for one in lists:
        console.print(_lineage_table(user, one, runs[one.listed_on]))


def _lineage_table(user: str, one: ListLineage, run: TableRun | None) -> Table:
    table = Table(title=escape(f"{user} · {one.category} · {one.day}"), show_header=False)
    for name, value in _lineage_rows(one, run):
        table.add_row(name, escape(value))
    return table


def _lineage_rows(one: ListLineage, run: TableRun | None) -> list[tuple[str, str]]:
    parts = ", ".join(f"{count} by {part}" for part, count in one.parts.items())
    carried = f"; made on {one.listed_on} and carried since" if one.listed_on != one.day else ""
    days = f", the newest on {', '.join(one.newest_days)}" if one.newest_days else ""
    rows = [
        ("list", f"{one.source}: {parts}{carried}"),
        ("events", f"{one.steps} steps ({one.item_steps} clicks and purchases) up to {one.listed_on}{days}"),
        ("search", f"{one.query!r}, with the memory as of {one.listed_on}" if one.query else "none among the steps"),
        ("answer", _answer(one)),
        *((line.kind, _model(line)) for line in one.models),
    ]
    if run is None:
        return [*rows, ("table", f"Dagster has no record of the run that made {one.listed_on}")]
    made = f"Dagster run {run.run_id}, {run.time}, code {run.code_version or 'not recorded'}"
    return [*rows, ("table", f"{made}, settings {run.settings_hash or 'not recorded'}")]


def _answer(one: ListLineage) -> str:
    answer = one.answer
    if answer is None:
        return "the language model was not asked"
    said = f"{answer['item_id']} | {answer['title'] or ''}" if answer["parsed"] else "no available item"
    return f"{said}, by adapter {answer['model_version']} on {answer['generated_on']}, prompt {answer['prompt_hash']}"


def _model(line: ModelLine) -> str:
    if line.tags is None:
        return f"version {line.version} of {line.scope!r}, registered no more"
    tags = line.tags
    state = "in use" if line.used == line.version else f"no longer in use (now {line.used})"
    if "rolled_back_at" in tags:
        state = f"rolled back {tags['rolled_back_at']}"
    return (
        f"version {line.version} of {line.scope!r}, {state}; fitted until {tags.get('fitted_until') or 'unknown'}, "
        f"MLflow run {line.run_id}, Dagster run {tags.get('dagster_run_id')}, code {tags.get('code_version')}; "
        f"{tags.get('promotion', 'promoted')}: {tags.get('promotion_reason', 'no reason recorded')}"
    )
