"""What every asset shares: run configuration, the day and the categories of a run, and the metadata of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml.errors import BadInputError
from ml.measure import Cost
from ml.settings import POOLED, Settings
from ml.tables import EVENT_IDS, TABLES, WRITTEN, Table
from ml.text import clean_text
from ml.warehouse import Publication, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

PREVIEW_ROWS = 5
_INERT = {ord(character): f"&#{ord(character)};" for character in "\\`*_{}[]<>|#!&"}
"""What Markdown or HTML would act on, as character references: Dagster's pages show the characters themselves."""


class TrainConfig(dg.Config):
    """Run configuration of everything that is fitted."""

    as_of: str | None = Field(default=None, description="Newest day of events used; None: newest published day.")


class NightlyConfig(dg.Config):
    """Run configuration of what is made per category every night."""

    categories: list[str] = Field(default=[], description="Categories to make; empty: all of them.")


def newest_day(warehouse: Warehouse) -> str:
    """Return the newest published day of events; raises BadInputError when there is none."""
    days = warehouse.days("interactions")
    if not days:
        raise BadInputError("no day of events is published yet: run `hemline nightly`, or materialise `interactions`")
    return days[-1]


def as_of_day(config: TrainConfig, warehouse: Warehouse) -> str:
    """Return the newest day a fit may use: the run configuration's, else the newest published."""
    return config.as_of or newest_day(warehouse)


def chosen_categories(config: NightlyConfig, settings: Settings) -> list[str]:
    """Return the categories of this run; raises BadInputError for one that the settings do not list."""
    unknown = sorted(set(config.categories) - set(settings.categories))
    if unknown:
        raise BadInputError(f"categories {unknown}: expected some of {settings.categories} (setting `categories`)")
    return config.categories or list(settings.categories)


def uses_pooled_models(settings: Settings, warehouse: Warehouse, category: str) -> bool:
    """Whether a category shares the pooled models: by setting, or because it has too few training examples."""
    if settings.scope == POOLED or category in settings.pooled_categories:
        return True
    if not warehouse.exists("training_sequences", category=category):
        return False
    rows = warehouse.read("training_sequences", ["eligible", "temporal_split"], category=category)
    eligible = sum(
        e and s == "train"
        for e, s in zip(rows["eligible"].to_pylist(), rows["temporal_split"].to_pylist(), strict=True)
    )
    return eligible < settings.min_train_examples


def scope_categories(settings: Settings, warehouse: Warehouse, scope: str) -> list[str]:
    """Return the categories whose models the partition `scope` holds: itself, or the pooled ones."""
    if scope != POOLED:
        return [] if uses_pooled_models(settings, warehouse, scope) else [scope]
    return [c for c in settings.categories if uses_pooled_models(settings, warehouse, c)]


def model_siblings(settings: Settings, warehouse: Warehouse, category: str) -> tuple[str, list[str]]:
    """Return the model partition a category is served from, and the other categories with sequences that it serves."""
    if not uses_pooled_models(settings, warehouse, category):
        return category, []
    others = [c for c in settings.categories if c != category and warehouse.exists("training_sequences", category=c)]
    return POOLED, [c for c in others if uses_pooled_models(settings, warehouse, c)]


def scope_of(settings: Settings, warehouse: Warehouse, category: str) -> str:
    """Return the model partition a category is served from."""
    return POOLED if uses_pooled_models(settings, warehouse, category) else category


def column_schema(table: Table) -> dg.TableSchema:
    """Return a table's schema as Dagster shows it."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                c.name, str(c.type), c.description, constraints=dg.TableColumnConstraints(nullable=not c.required)
            )
            for c in table.columns
        ]
    )


def table_metadata(publications: Sequence[Publication], preview: pa.Table | None, cost: Cost) -> dict[str, Any]:
    """Return the metadata every published table carries: rows, schema, preview without personal columns, cost."""
    table = TABLES[publications[0].table]
    metadata: dict[str, Any] = {
        "dagster/row_count": sum(p.rows for p in publications),
        "dagster/column_schema": column_schema(table),
        "bytes": sum(p.bytes for p in publications),
        "partitions_changed": sum(p.changed for p in publications),
        **cost.metadata(),
        "path": dg.MetadataValue.path(publications[-1].location),
    }
    return metadata if preview is None else metadata | preview_metadata(publications, preview)


def preview_metadata(publications: Sequence[Publication], rows: pa.Table) -> dict[str, Any]:
    """Return the first rows of what was published, as metadata."""
    return {"preview": preview_markdown(TABLES[publications[0].table], rows)}


def preview_markdown(table: Table, rows: pa.Table) -> dg.MarkdownMetadataValue:
    """Return the first rows as a Markdown table: nobody's id or words, long values cut, markup inert."""
    shown = [name for name in rows.column_names if name not in (*table.personal_columns, *WRITTEN, *EVENT_IDS)]
    lines = ["| " + " | ".join(shown) + " |", "|" + " --- |" * len(shown)]
    for row in rows.select(shown).slice(0, PREVIEW_ROWS).to_pylist():
        lines.append("| " + " | ".join(_cell(row[name]) for name in shown) + " |")
    return dg.MetadataValue.md("\n".join(lines))


def _cell(value: object, limit: int = 60) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = f"{len(value)} steps"
    text = "" if value is None else clean_text(str(value), 4 * limit)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.translate(_INERT)


def figure_markdown(figure: Figure) -> dg.MarkdownMetadataValue:
    """Return a matplotlib figure as an inline picture for Dagster's UI."""
    import base64
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=70, bbox_inches="tight")
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")
