"""The README's queries, word for word, on published tables."""

import re
from pathlib import Path

import pytest
from small_shop import LAST

README = Path(__file__).parents[2] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("tool", ["duckdb", "pandas", "spark"])
def test_a_readers_first_query_works_as_written(shop, spark, tool, monkeypatch, capsys):
    found = [snippet for snippet in SNIPPETS if tool in snippet]
    assert found, f"the README queries the tables with {tool}"
    monkeypatch.chdir(shop.folder)
    code = re.sub(r"\b20\d\d-\d\d-\d\d\b", LAST, found[0])
    if tool == "spark":
        code = code.replace('"warehouse/', f'"{shop.folder}/warehouse/')  # the session has its own current directory
    names = {"spark": spark}
    exec(compile(code, str(README), "exec"), names)
    rows = [
        row for c in ("Clothing", "Footwear", "Bags") for row in shop.rows("recommendations", date=LAST, category=c)
    ]
    if tool == "duckdb":
        assert "language_model" in capsys.readouterr().out
    elif tool == "pandas":
        day = names["day"]
        assert len(day) == len(rows) and set(day["category"]) == {"Clothing", "Footwear", "Bags"}
    else:
        wanted = {(r["user_id"], r["rank"]) for r in rows if r["source"] == "language_model"}
        lists = names["lists"].where(f"date = '{LAST}'").collect()
        assert {(r["user_id"], r["rank"]) for r in lists} <= wanted and lists
