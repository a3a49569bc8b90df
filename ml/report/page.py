"""Writes the report: tables and figures of every category and view, as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.errors import BadInputError
from ml.files import write_file
from ml.report.category import FEW, as_named, category_tables, category_views, of_catalogue
from ml.report.figures import METRICS
from ml.report.missing import evaluate
from ml.report.names import ABOUT, metric_name
from ml.report.orders import main_tables
from ml.report.studies import experiment_figures, experiment_kinds
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NIGHTS = 14
"""Newest days of `realised` shown."""


def write_report(settings: Settings, warehouse: Warehouse, folder: Path) -> Path:
    """Write `index.html` and the figures as PNG files into `folder`; return the page's path.

    The page holds its figures, so that it can be sent as one file; text of the log is escaped. Raises BadInputError
    where nothing has been evaluated yet.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    tables = {name: category_tables(warehouse, name) for name in settings.categories}
    evaluated = [name for name in settings.categories if tables[name]["metrics"]]
    if not evaluated:
        raise BadInputError(f"{settings.warehouse}: nothing has been evaluated yet: run `hemline evaluate`")
    nights = _realised(warehouse)
    categories = [
        category_views(settings, warehouse, name, tables[name], nights[0]["rows"].get(name, []) if nights else [])
        for name in evaluated
    ]
    for category in categories:
        for view in category["views"]:
            stem = _file_name(*view["key"])
            named = [(title, caption, f"{stem}-{name}", figure) for title, caption, name, figure in view["figures"]]
            view["figures"] = _pictures(named, folder)
    drawn = experiment_figures(settings, warehouse)
    figures = {kind: _pictures([figure], folder) for kind, figure in drawn.items()}
    environment = Environment(loader=PackageLoader("ml.report", "."), autoescape=True, undefined=StrictUndefined)
    days = warehouse.days("interactions")
    page = environment.get_template("page.html").render(
        categories=categories,
        not_evaluated=[(name, evaluate(settings, name)) for name in settings.categories if name not in evaluated],
        main=main_tables({name: as_named(settings, of_catalogue(tables[name]["metrics"])) for name in evaluated}),
        nights=nights,
        experiments=experiment_kinds(settings, warehouse),
        experiment_figures=figures,
        study=settings.experiments,
        first=days[0],
        last=days[-1],
        evaluation=settings.evaluation,
        base_model=settings.language_model.base_model,
        heads=[metric_name(metric, settings.evaluation.k) for metric in METRICS],
        about=ABOUT,
        few=FEW,
    )
    file = folder / "index.html"
    write_file(file, lambda path: path.write_text(page, encoding="utf-8"))
    return file


def _realised(warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return how each published table did the day after, the newest first, all sources together."""
    nights = []
    for day in warehouse.days("realised")[::-1][:NIGHTS]:
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in warehouse.read("realised", date=day).to_pylist():
            if row["source"] == "all" and row["value"] is not None:
                rows.setdefault(row["category"], []).append(row)
        nights.append({"day": day, "rows": rows})
    return nights


def _pictures(figures: Sequence[tuple[str, str, str, Figure]], folder: Path) -> list[dict[str, str]]:
    """Return what the page shows of (title, caption, file name, figure)."""
    return [
        {"title": title, "caption": caption, "source": _picture(figure, folder / f"{name}.png")}
        for title, caption, name, figure in figures
    ]


def _picture(figure: Figure, file: Path) -> str:
    """Write the figure as PNG and return it as an address for the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_file(file, lambda path: path.write_bytes(buffer.getvalue()))
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _file_name(*parts: str) -> str:
    return "-".join(re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in parts)
