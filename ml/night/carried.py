"""Which lists of the night before still hold (design: who gets what)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ml.settings import Settings

if TYPE_CHECKING:
    from ml.night.shelf import Shelf


def carried_rows(
    previous: pa.Table | None,
    histories: pa.Table,
    shelf: Shelf,
    users: set[str],
    settings: Settings,
    rolled_back: Mapping[str, Collection[str]],
) -> pa.Table | None:
    """Return the rows of the previous table that still hold for some of `users`.

    A list is carried if the language model made it, its customer did nothing in the category since, it has K items,
    each is still on the shelf, and no model that made it was rolled back (`rolled_back`: versions by column). Its
    versions and `listed_on` stay, its source becomes `carried`.
    """
    if previous is None or not previous.num_rows:
        return None
    zone, k = settings.log.zone, settings.recommendations.k
    newest = {
        user: steps[-1]["event_time"].astimezone(zone).date().isoformat()
        for user, steps in zip(histories["user_id"].to_pylist(), histories["steps"].to_pylist(), strict=True)
        if steps and user in users
    }
    made = previous.filter(pc.field("source").isin(["language_model", "carried"]))
    for column, versions in rolled_back.items():
        made = made.filter(~pc.field(column).isin(pa.array(sorted(versions), pa.string())))
    lists: dict[str, list[tuple[str, str]]] = {}
    for row in made.select(["user_id", "item_id", "listed_on"]).to_pylist():
        lists.setdefault(row["user_id"], []).append((row["item_id"], row["listed_on"]))

    def holds(user: str, rows: list[tuple[str, str]]) -> bool:
        unchanged = user in newest and newest[user] <= rows[0][1]
        return unchanged and len(rows) == k and all(item in shelf for item, _ in rows)

    holding = [user for user, rows in lists.items() if holds(user, rows)]
    kept = made.filter(pc.field("user_id").isin(pa.array(holding, pa.string())))
    position = kept.schema.get_field_index("source")
    return kept.set_column(position, "source", pa.array(["carried"] * kept.num_rows, pa.string()))
