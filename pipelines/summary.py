"""What a person sees in the terminal: a customer's list beside what they did, and the metrics."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ml.errors import BadInputError
from ml.experiments import experiments
from ml.report.category import FEW
from ml.report.missing import every_system, missing_systems
from ml.settings import Settings
from ml.warehouse import Warehouse, open_warehouse

SHOWN_STEPS = 8


def print_customer(console: Console, settings: Settings, user: str, day: str | None = None) -> None:
    """Print a customer's newest steps and their lists of `day` (default: the newest published)."""
    warehouse = open_warehouse(settings)
    days = warehouse.days("recommendations")
    if not days:
        raise BadInputError("no recommendations are published yet: run `hemline nightly`")
    day = day or days[-1]
    if day not in days:
        raise BadInputError(f"--date {day}: nothing is published for it; there are {days[0]} … {days[-1]}")
    titles = _titles(warehouse)
    own = warehouse.read("user_histories", where=pc.field("user_id") == user, date=day).to_pylist()
    if not own:
        raise BadInputError(
            f"customer {user!r}: not active in the {settings.recommendations.active_days} days to {day}"
        )
    for category in warehouse.level_values("recommendations", "category", date=day):
        rows = warehouse.read("recommendations", where=pc.field("user_id") == user, date=day, category=category)
        listed = sorted(rows.to_pylist(), key=lambda r: r["rank"])
        steps = next((h["steps"] for h in own if h["category"] == category), [])
        console.print(_customer_table(f"{user} · {category} · {day}", steps, listed, titles))


def _customer_table(title: str, steps: Sequence[dict[str, Any]], listed: Sequence[dict[str, Any]],
                    titles: dict[str, str]) -> Table:  # fmt: skip
    table = Table("did", f"recommended ({listed[0]['source'] if listed else 'nothing'})", title=escape(title))
    done = [f"{s['action']:8} {escape(_what(s, titles))}" for s in steps[-SHOWN_STEPS:]]
    offered = [f"{r['rank']:2} {escape(titles.get(r['item_id'], str(r['item_id'])))} ({r['part']})" for r in listed]
    for i in range(max(len(done), len(offered))):
        table.add_row(done[i] if i < len(done) else "", offered[i] if i < len(offered) else "")
    return table


def _what(step: dict[str, Any], titles: dict[str, str]) -> str:
    return str(step["query"] if step["action"] == "search" else titles.get(step["item_id"], step["item_id"]))


def print_metrics(console: Console, settings: Settings) -> None:
    """Print every published evaluation metric, one table per category, split and view of the log.

    Below a category's tables: the systems that have no row in them, with the command that makes all of them.
    """
    warehouse = open_warehouse(settings)
    for category in warehouse.level_values("evaluation_metrics", "category"):
        rows = warehouse.read("evaluation_metrics", category=category).to_pylist()
        for view in sorted({(r["split"], r["actions"], r["candidates"]) for r in rows}):
            chosen = [r for r in rows if (r["split"], r["actions"], r["candidates"]) == view]
            console.print(_metric_table(f"{category} · {' · '.join(view)}", chosen))
        left_out = missing_systems(settings, category, "all", {r["system"] for r in rows}) if rows else []
        if left_out:
            names = ", ".join(row["name"] for row in left_out)
            console.print(
                f"{category}: no number of {names}:\n  {every_system(settings, category)}", markup=False, soft_wrap=True
            )


def _no_claim(rows: list[dict[str, Any]]) -> str | None:
    """Return the words below a table that is of too few purchases to claim anything from."""
    return f"fewer than {FEW} purchases: no claim" if rows and rows[0]["examples"] < FEW else None


def _metric_table(title: str, rows: list[dict[str, Any]]) -> Table:
    metrics = [m for m in ("recall", "ndcg", "mrr") if any(r["metric"] == m for r in rows)]
    k = rows[0]["k"]
    names = {"recall": f"Recall@{k}", "ndcg": f"NDCG@{k}", "mrr": "MRR"}
    columns = [names[m] for m in metrics]
    table = Table("system", "examples", *columns, title=escape(title), caption=_no_claim(rows))
    cells = {(r["system"], r["metric"]): r for r in rows}
    for system in dict.fromkeys(r["system"] for r in rows):
        shown = [cells.get((system, m)) for m in metrics]
        table.add_row(
            system,
            str(next(r["examples"] for r in shown if r)),
            *(with_interval(r) if r else "" for r in shown),
        )
    return table


def print_experiments(console: Console, settings: Settings) -> None:
    """Print what the experiments gave, with their difference from what they are compared with, and what is missing."""
    warehouse = open_warehouse(settings)
    listed = experiments(settings)
    questions = {experiment.name: experiment.question for experiment in listed}
    for name in warehouse.level_values("experiment_metrics", "experiment"):
        rows = warehouse.read("experiment_metrics", experiment=name).to_pylist()
        title = f"{name}: {questions.get(name, 'of other settings')}"
        table = Table("system", "metric", "value", "difference", title=escape(title), caption=_no_claim(rows))
        for row in rows:
            lead = {"value": row["difference"], "low": row["difference_low"], "high": row["difference_high"]}
            against = "" if row["difference"] is None else with_interval(lead)
            table.add_row(row["system"], row["metric"], with_interval(row), against)
        console.print(table)
    for experiment in listed:
        if not warehouse.exists("experiment_metrics", experiment=experiment.name):
            command = settings.command(f"experiments {shlex.quote(experiment.name)}")
            console.print(f"not run yet: {command}", markup=False, soft_wrap=True)


def print_realised(console: Console, settings: Settings) -> None:
    """Print how each published table did, all sources together, against the next day's purchases."""
    warehouse = open_warehouse(settings)
    rows = [
        (day, r) for day in warehouse.days("realised") for r in warehouse.read("realised", date=day).to_pylist()
        if r["value"] is not None and r["source"] == "all"
    ]  # fmt: skip
    if not rows:
        return
    table = Table("day", "category", "metric", "value", "customers", title="Yesterday's table, today's purchases")
    for day, r in rows:
        table.add_row(day, r["category"], r["metric"], with_interval(r), str(r["customers"]))
    console.print(table)


def with_interval(row: dict[str, Any]) -> str:
    """Return a metric's value with its interval, which a single customer does not have."""
    ends = [row["low"], row["high"]]
    known = all(end is not None and end == end for end in ends)  # NaN is not equal to itself
    return f"{row['value']:.4f}" + (f" [{ends[0]:.4f}, {ends[1]:.4f}]" if known else " [one customer]")


def _titles(warehouse: Warehouse) -> dict[str, str]:
    items = warehouse.read("catalog", ["item_id", "title"])
    return dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
