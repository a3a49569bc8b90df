"""`hemline demo`: from nothing to a table of recommendations, in minutes, with what it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from ml.errors import BadInputError
from ml.settings import Settings, SparkSettings
from ml.warehouse import Warehouse, open_warehouse
from pipelines import flows
from pipelines.run import Runner
from pipelines.settings import load_settings
from pipelines.summary import print_customer, print_metrics, print_realised

CUSTOMERS, ITEMS, DAYS = 600, 800, 60
CATEGORIES = ["Clothing", "Footwear"]
SHOWN_CUSTOMERS = 3


def simulate_shop_at(
    out: Path, customers: int, items: int, days: int, end: str | None, categories: Sequence[str], seed: int
) -> None:
    """Simulate a shop whose log ends on `end` (default: yesterday)."""
    from ml.simulate import simulate_shop
    from ml.spark import SparkSource

    last = end or (date.today() - timedelta(days=1)).isoformat()
    spark = SparkSource(SparkSettings(driver_memory="2g", shuffle_partitions=2)).session
    simulate_shop(
        spark, out, customers=customers, items=items, days=days, end=last, categories=list(categories), seed=seed
    )


def demo_settings(folder: Path, end: str | None = None) -> Path:
    """Write the demo's settings file once, and return it.

    The first run fixes the shop's last day: `end`, or yesterday.
    """
    file = folder / "hemline.yaml"
    if not file.exists():
        last = date.fromisoformat(end) if end else date.today() - timedelta(days=1)
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            "profile": "demo",
            "raw_log": "raw/interactions",
            "catalog": "raw/catalog.parquet",
            "warehouse": "warehouse",
            "home": ".hemline",
            "report": "report",
            "start_date": (last - timedelta(days=DAYS - 1)).isoformat(),
        }
        file.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return file


def run_demo(console: Console, folder: Path, end: str | None = None) -> None:
    """Simulate, train, run the last two nights, evaluate, and print the result; what is done already is kept.

    Raises BadInputError where the folder has a shop that ends on another day than `end`.
    """
    file = demo_settings(folder, end)
    settings = load_settings(file).settings
    last = date.fromisoformat(settings.start_date) + timedelta(days=DAYS - 1)
    if end and last.isoformat() != end:
        raise BadInputError(
            f"{file}: its shop ends on {last}, not on {end}; choose another --folder, or leave --date out"
        )
    nights = [(last - timedelta(days=1)).isoformat(), last.isoformat()]
    runner = Runner(settings)
    stages = Stages(console, folder / ".stages")
    stages.run(
        "simulate a shop",
        lambda: simulate_shop_at(folder / "raw", CUSTOMERS, ITEMS, DAYS, nights[-1], CATEGORIES, settings.seed),
    )
    stages.run("train", lambda: flows.train(runner, nights[-1]))
    for night in nights:
        stages.run(f"nightly {night}", lambda night=night: flows.nightly(runner, night))
    stages.run("evaluate", lambda: flows.evaluate(runner))
    page = flows.report(settings)
    print_result(console, settings, nights[-1])
    stages.print()
    console.print(
        f"\nTables    {settings.warehouse}\n"
        f"Query     SELECT * FROM '{settings.warehouse}/recommendations/*/*/*.parquet'   (DuckDB)\n"
        f"A person  {settings.command('show USER')}\n"
        f"Report    {page}\n"
        f"UI        make ui   (Dagster on port 3000, MLflow on port 5000)"
    )


def print_result(console: Console, settings: Settings, day: str) -> None:
    """Print three customers' lists beside what they did, and the metrics with their references."""
    warehouse = open_warehouse(settings)
    for user in example_customers(warehouse, settings.categories[0], day):
        print_customer(console, settings, user, day)
    print_metrics(console, settings)
    print_realised(console, settings)


def example_customers(warehouse: Warehouse, category: str, day: str) -> list[str]:
    """Return a few customers whose list of that day the language model made."""
    rows = warehouse.read("recommendations", ["user_id", "source"], date=day, category=category).to_pylist()
    return sorted({r["user_id"] for r in rows if r["source"] == "language_model"})[:SHOWN_CUSTOMERS]


class Stages:
    """Runs named stages, remembers the finished ones in a folder, and knows how long each took."""

    def __init__(self, console: Console, folder: Path) -> None:
        self.console = console
        self.folder = folder
        self.took: list[tuple[str, float]] = []

    def run(self, name: str, work: Callable[[], object]) -> None:
        """Run a stage unless it is done."""
        done = self.folder / name.replace(" ", "_")
        if done.exists():
            self.console.print(f"[green]✓[/] {name} [dim](done before)[/]")
            self.took.append((f"{name} (done before)", float(done.read_text())))
            return
        self.console.rule(f"[bold]{name}", align="left")
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        self.folder.mkdir(parents=True, exist_ok=True)
        done.write_text(f"{seconds:.1f}\n")
        self.took.append((name, seconds))

    def print(self) -> None:
        """Print how long each stage took."""
        table = Table("stage", "seconds", title="Time")
        for name, seconds in self.took:
            table.add_row(name, f"{seconds:.0f}")
        table.add_row("total", f"{sum(seconds for _, seconds in self.took):.0f}")
        self.console.print(table)
