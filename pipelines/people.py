"""`hemline forget`: customers taken out of tables, models' records and Dagster's, and what is left to a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from assets.common import scope_categories
from ml.errors import HemlineError
from ml.people.databases import SQLITE, scrub_database, vacuum
from ml.people.files import all_scopes, scrub_logs
from ml.people.forgetting import Forgotten, forget
from ml.people.models import FittedOn, models_due
from ml.people.scrub import Scrub
from ml.settings import Settings
from ml.spark import SparkSource
from ml.warehouse import Warehouse, open_warehouse
from pipelines.resources import model_registry, tracking_uri
from pipelines.run import dagster_home


def forget_customers(
    settings: Settings, users: Sequence[str], console: Console, warehouse: Warehouse | None = None
) -> Forgotten:
    """Forget customers everywhere below the settings' places; raises HemlineError where a database was in use.

    `warehouse`: one that is opened otherwise than the settings say.
    """
    warehouse, registry = warehouse or open_warehouse(settings), model_registry(settings)
    scopes = {scope: scope_categories(settings, warehouse, scope) for scope in all_scopes(settings)}
    busy: list[str] = []
    done = forget(
        settings,
        warehouse,
        registry,
        SparkSource(settings.spark),
        users,
        scopes,
        partial(scrub_records, settings, busy),
        lambda: console.print(
            "Another run is in a step: waiting until it is through. Ctrl+C, and again later, is safe."
        ),
    )
    if busy:
        raise HemlineError(
            f"{', '.join(busy)}: in use, so that what was deleted still lies in files of the database. "
            "All else is done: stop `hemline ui`, then run this again"
        )
    return done


def scrub_records(settings: Settings, busy: list[str], scrub: Scrub) -> Mapping[str, int]:
    """Take customers out of Dagster's databases and logs; what was deleted too, in MLflow's database as well.

    Return what was changed, by place; databases that another process uses are appended to `busy`.
    """
    import dagster as dg

    home = dagster_home(settings)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        remote = [url for url in _storage_urls(instance) if not url.startswith("sqlite")]
    urls = [*remote, *(f"{SQLITE}{path}" for path in sorted(home.rglob("*.db")) if path.is_file())]
    counts = {
        "dagster records": sum(_scrub(url, scrub) for url in urls),
        "dagster logs": scrub_logs(home, scrub),
    }
    busy += [_database(url) for url in [*urls, tracking_uri(settings)] if not vacuum(url)]
    return {place: count for place, count in counts.items() if count}


def _storage_urls(instance: object) -> set[str]:
    """Return the addresses of the databases an instance keeps its runs, events and schedules in."""
    names = ("run_storage", "event_log_storage", "schedule_storage")
    return {url for name in names if (url := getattr(getattr(instance, name, None), "postgres_url", None))}


def _database(url: str) -> str:
    """Return a database's name or its file's, for messages."""
    import sqlalchemy as sa

    return (sa.make_url(url).database or "").rpartition("/")[2]


def _scrub(url: str, scrub: Scrub) -> int:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            return scrub_database(connection, scrub)
    finally:
        engine.dispose()


def print_forgotten(console: Console, settings: Settings, done: Forgotten) -> None:
    """Print what was taken out of which place, the models to replace, and what only the shop can delete."""
    count = len(done.customers)
    console.print(
        f"{count} customer{'s' * (count != 1)} on the suppression list; ingestion leaves them out from now on."
    )
    table = Table("place", "taken out", box=None, pad_edge=False)
    for place, rows in done.removed.items():
        table.add_row(place, f"{rows:,}")
    console.print(table if done.removed else "Nothing held them.")
    print_models(console, done.models)
    days = f"days {done.raw_days[0]} … {done.raw_days[-1]}" if done.raw_days else "maybe"
    console.print(
        escape(f"The raw log ({settings.raw_log}) is the shop's and was not touched; it holds their events ({days}).")
    )
    console.print(escape(f"Audit record: {settings.home / 'people' / 'audit.jsonl'}"))


def print_models(console: Console, models: Sequence[FittedOn]) -> None:
    """Print the models in use that were fitted on customers who are forgotten."""
    if not models:
        console.print("No model in use was fitted on customers who are forgotten.")
    for model in models:
        console.print(
            f"{model.kind} {model.version} for {model.scope!r} was fitted on them: to be replaced by "
            f"{model.retrain_by} (`hemline train`)",
            markup=False,
        )


def due(settings: Settings) -> list[FittedOn]:
    """Return the models in use that must be replaced, because they were fitted on customers who are forgotten."""
    return models_due(model_registry(settings), all_scopes(settings))
