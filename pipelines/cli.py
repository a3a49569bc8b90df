"""The `hemline` command: thin over the Dagster jobs."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ml.errors import HemlineError
from ml.secrets import redact, redacted, shown
from pipelines.settings import FILE_VARIABLE, PROFILE_VARIABLE, LoadedSettings, load_settings

# Set before any library is loaded: their chatter would bury what a run says, none of them phones home, and a thread
# that waits for another leaves its core to whatever else the machine does (docs/log.md, "Beside other work").
for _name, _value in {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PYTHONWARNINGS": "ignore::FutureWarning",
    "OMP_WAIT_POLICY": "PASSIVE",
}.items():
    os.environ.setdefault(_name, _value)
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
logging.getLogger("mlflow").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", category=FutureWarning)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False, emoji=False)  # text of the log is printed as it is

SettingsFile = Annotated[Path | None, typer.Option("--settings", help="YAML file; default: hemline.yaml, if there.")]
Profile = Annotated[str | None, typer.Option(help="demo, paper, … (defaults that the file may change)")]
Category = Annotated[list[str] | None, typer.Option("--category", help="Repeatable; default: all.")]
Day = Annotated[str | None, typer.Option("--date", help="YYYY-MM-DD; default: the newest raw day.")]
FromLog = Annotated[bool, typer.Option("--from-log", help="First clean the log to its newest day and fit the models.")]


@contextmanager
def _errors_for_people() -> Iterator[None]:
    try:
        yield
    except HemlineError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print("[bold red]Error:[/] ", end="")
        print(redact(str(error)), file=sys.stderr)
        raise typer.Exit(1) from None
    except Exception as error:
        clean = redacted(error)
        if clean is error:
            raise
        raise clean from None


def _load(file: Path | None, profile: str | None) -> LoadedSettings:
    """Load the settings, and leave them in the environment for the processes that Dagster starts."""
    loaded = load_settings(file, profile)
    if loaded.file:
        os.environ[FILE_VARIABLE] = str(loaded.file)
    if profile:
        os.environ[PROFILE_VARIABLE] = profile
    return loaded


def _day(value: str | None, option: str) -> str | None:
    from datetime import date

    if value is not None:
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            raise HemlineError(f"{option} {value!r}: expected a day such as 2026-11-20") from None
    return None


@app.command()
def init(
    raw_log: Annotated[Path, typer.Option(help="Folder of event_date=YYYY-MM-DD partitions.")],
    catalog: Annotated[Path, typer.Option(help="Catalogue: Parquet, CSV or JSON lines.")],
    warehouse: Annotated[str, typer.Option(help="Where tables are published: a folder or s3://…")] = "warehouse",
    file: Annotated[Path, typer.Option(help="The settings file to write.")] = Path("hemline.yaml"),
    profile: Annotated[
        str | None, typer.Option(help="Where other settings begin; default: two_cores on a machine without a GPU.")
    ] = None,
) -> None:
    """Look at a log and a catalogue, and write the settings they need."""
    from pipelines.init import write_settings

    with _errors_for_people():
        console.print(write_settings(raw_log, catalog, warehouse, file, profile), markup=False)


@app.command()
def settings(file: SettingsFile = None, profile: Profile = None) -> None:
    """Print every effective setting and where it came from."""
    from rich.markup import escape
    from rich.table import Table

    from pipelines.settings import flatten

    with _errors_for_people():
        loaded = load_settings(file, profile)
        table = Table("setting", "value", "from", box=None, pad_edge=False)
        for name, value in flatten(loaded.settings):
            source = loaded.sources.get(name, "default")
            table.add_row(name, escape(shown(name, value)), source, style="" if name in loaded.sources else "dim")
        Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000).print(table)


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="Where `interactions/` and `catalog.parquet` are written.")] = Path("raw"),
    customers: Annotated[int, typer.Option(min=1)] = 600,
    items: Annotated[int, typer.Option(min=1)] = 800,
    days: Annotated[int, typer.Option(min=1)] = 60,
    end: Annotated[str | None, typer.Option(help="Last day; default: yesterday.")] = None,
    category: Category = None,
    seed: int = 0,
) -> None:
    """Simulate a shop: a catalogue and a log in the raw contract's shape."""
    from pipelines.demo import simulate_shop_at

    with _errors_for_people():
        simulate_shop_at(out, customers, items, days, _day(end, "--end"), category or ["Clothing", "Footwear"], seed)


@app.command()
def train(
    as_of: Annotated[str | None, typer.Option("--as-of", help="Newest day used; default: newest raw day.")] = None,
    category: Category = None,
    file: SettingsFile = None,
    profile: Profile = None,
) -> None:
    """Fit and promote the models."""
    with _errors_for_people():
        from pipelines import flows
        from pipelines.run import Runner

        flows.train(Runner(_load(file, profile).settings), _day(as_of, "--as-of"), category or [])


@app.command()
def nightly(day: Day = None, category: Category = None, file: SettingsFile = None, profile: Profile = None) -> None:
    """Make one day's tables, from the raw log to `recommendations` and `realised`."""
    with _errors_for_people():
        from pipelines import flows
        from pipelines.run import Runner

        flows.nightly(Runner(_load(file, profile).settings), _day(day, "--date"), category or [])


@app.command()
def evaluate(
    category: Category = None,
    report: Annotated[bool, typer.Option(help="Write the page and figures too (setting `report`).")] = False,
    from_log: FromLog = False,
    file: SettingsFile = None,
    profile: Profile = None,
) -> None:
    """Score ours and every other system on the held-out purchases; what was finished before is kept."""
    with _errors_for_people():
        from pipelines import flows
        from pipelines.run import Runner
        from pipelines.summary import print_metrics

        loaded = _load(file, profile)
        runner = Runner(loaded.settings)
        if from_log:
            flows.train(runner, categories=category or [])
        flows.evaluate(runner, category or [])
        print_metrics(console, loaded.settings)
        if report:
            console.print(f"Report    {flows.report(loaded.settings)}", markup=False)


@app.command()
def experiments(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which; default: all, those that are done excepted.")
    ] = None,
    from_log: FromLog = False,
    file: SettingsFile = None,
    profile: Profile = None,
) -> None:
    """Run the paper's ablations, zero-shot and low-resource experiments that are not done yet."""
    with _errors_for_people():
        from pipelines import flows
        from pipelines.run import Runner
        from pipelines.summary import print_experiments

        loaded = _load(file, profile)
        runner = Runner(loaded.settings)
        if from_log:
            flows.train(runner)
        flows.experiments(runner, names or [])
        print_experiments(console, loaded.settings)


@app.command()
def show(user: str, day: Day = None, file: SettingsFile = None, profile: Profile = None) -> None:
    """Show what a customer did and what is recommended to them."""
    with _errors_for_people():
        from pipelines.summary import print_customer

        print_customer(console, load_settings(file, profile).settings, user, _day(day, "--date"))


@app.command()
def lineage(
    user: str,
    day: Annotated[str, typer.Argument(metavar="DATE", help="Day of the list, YYYY-MM-DD.")],
    category: Category = None,
    file: SettingsFile = None,
    profile: Profile = None,
) -> None:
    """Say which events, memory, answer, models and runs made a customer's lists of a day."""
    with _errors_for_people():
        from pipelines.models import print_lineage

        wanted = _day(day, "DATE") or day
        print_lineage(console, load_settings(file, profile).settings, user, wanted, category or [])


@app.command()
def rollback(
    kind: Annotated[str, typer.Argument(help="adapter, title_encoder, item_embeddings or ranker.")],
    category: Category = None,
    file: SettingsFile = None,
    profile: Profile = None,
) -> None:
    """Put the model into use that was in use before; the next night reads it."""
    with _errors_for_people():
        from pipelines.models import print_rollbacks, roll_back

        loaded = load_settings(file, profile)
        print_rollbacks(console, loaded.settings, roll_back(loaded.settings, kind, category or []))


@app.command()
def forget(
    users: Annotated[list[str] | None, typer.Argument(help="Ids; none: which models are still to be replaced.")] = None,
    file: SettingsFile = None,
    profile: Profile = None,
) -> None:
    """Take customers out of everything Hemline made, and leave them out from now on."""
    with _errors_for_people():
        from pipelines import people

        loaded = load_settings(file, profile)
        if users:
            done = people.forget_customers(loaded.settings, users, console)
            people.print_forgotten(console, loaded.settings, done)
        else:
            people.print_models(console, people.due(loaded.settings))


@app.command()
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    file: SettingsFile = None,
    profile: Profile = None,
) -> None:
    """Remove what the settings `retention` do not keep: old partitions, model files, forgotten work."""
    with _errors_for_people():
        from pipelines.clean import clean, print_removals

        print_removals(console, clean(load_settings(file, profile).settings, dry_run), dry_run)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything of the demo goes.")] = Path("demo"),
    date: Annotated[str | None, typer.Option(help="The shop's last day, YYYY-MM-DD; default: yesterday.")] = None,
) -> None:
    """Simulate a shop, train, run two nights, evaluate, and show the result."""
    with _errors_for_people():
        from pipelines.demo import run_demo

        run_demo(console, folder, _day(date, "--date"))


@app.command()
def ui(
    port: int = 3000,
    mlflow_port: int = 5000,
    host: Annotated[
        str,
        typer.Option(help="Address to serve on. Nobody is asked who they are: put a proxy that asks before another."),
    ] = "127.0.0.1",
    only: Annotated[list[str] | None, typer.Option(help="web, daemon or mlflow; repeatable. Default: all.")] = None,
    file: SettingsFile = None,
    profile: Profile = None,
) -> None:
    """Open Dagster's UI, its daemon, and MLflow's UI, on this machine only unless said otherwise."""
    with _errors_for_people():
        from pipelines.ui import serve

        serve(console, _load(file, profile).settings, port, mlflow_port, host, only or [])


if __name__ == "__main__":
    app()
