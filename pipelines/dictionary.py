"""The data dictionary, generated from `ml.tables`: `docs/tables.md` whole, and the list of tables in the README.

Run `python -m pipelines.dictionary` after changing a schema; a test fails while the documents are behind.
"""

from __future__ import annotations

from pathlib import Path

from ml.tables import TABLES

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- tables: begin (python -m pipelines.dictionary) -->", "<!-- tables: end -->"


def dictionary() -> str:
    """Return every table with every column, as Markdown."""
    parts = ["# Tables\n\nGenerated from `ml/tables.py`. Levels are Hive folders: their values are in the path.\n"]
    for table in TABLES.values():
        levels = ", ".join(f"`{level}`" for level in table.levels) or "none"
        parts.append(f"## {table.name}\n\nOne row is {table.row}. Levels: {levels}. Key: {', '.join(table.key)}.\n")
        parts.append("| column | type | null | meaning |\n| --- | --- | --- | --- |")
        parts.extend(
            f"| `{c.name}` | {_type(str(c.type))} | {'' if c.required else 'yes'} | {c.description} |"
            for c in table.columns
        )
        parts.append("")
    return "\n".join(parts)


def overview() -> str:
    """Return the list of tables for the README."""
    lines = ["| table | levels | one row is |", "| --- | --- | --- |"]
    lines += [f"| `{t.name}` | {', '.join(t.levels)} | {t.row} |" for t in TABLES.values()]
    return "\n".join(lines)


def with_overview(readme: str) -> str:
    """Return the README with the list of tables between its markers made anew."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{overview()}\n{END}{after}"


def _type(name: str) -> str:
    return name.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    (ROOT / "docs" / "tables.md").write_text(dictionary(), "utf-8")
    readme = ROOT / "README.md"
    readme.write_text(with_overview(readme.read_text("utf-8")), "utf-8")
