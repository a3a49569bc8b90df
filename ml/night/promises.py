"""What a `recommendations` partition must keep before anyone can read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ml.errors import HemlineError
from ml.settings import Settings
from ml.warehouse import parquet_views

if TYPE_CHECKING:
    from ml.night.shelf import Shelf

_QUERIES = {
    "a customer has an item twice": "SELECT count(*) - count(DISTINCT (user_id, item_id)) FROM rows",
    "ranks are not 1..K without gaps": (
        "SELECT count(*) FROM (SELECT user_id FROM rows GROUP BY user_id "
        "HAVING min(rank) <> 1 OR max(rank) <> count(*) OR count(DISTINCT rank) <> count(*))"
    ),
    "an item is not available on the day": "SELECT count(*) FROM rows WHERE item_id NOT IN (SELECT item_id FROM shelf)",
    "a list was made after the day": "SELECT count(*) FROM rows WHERE listed_on > $day",
}


def promises(settings: Settings, shelf: Shelf, day: str) -> list[Callable[[Path], None]]:
    """Return the checks of one category's partition: K per customer, ranks 1..K, no duplicates, available, no future.

    K is the setting, or the shelf's size where that is smaller. Each raises HemlineError with how many rows break it.
    """
    return [lambda folder: check_promises(folder, settings, shelf, day)]


def broken_promises(files: Sequence[Path], shelf: Shelf, day: str, k: int | None) -> dict[str, int]:
    """Return how many rows or customers break each promise; only broken ones are in the result.

    Without `k` the length of lists is not looked at.
    """
    import pyarrow as pa

    with parquet_views(rows=files) as connection:
        connection.register("shelf", pa.table({"item_id": pa.array(shelf.items, pa.string())}))
        counts = {}
        for promise, query in _QUERIES.items():
            row = connection.execute(query, {"day": day} if "$day" in query else {}).fetchone()
            counts[promise] = row[0] if row else 0
        if k is not None:
            row = connection.execute(
                "SELECT count(*) FROM (SELECT user_id FROM rows GROUP BY user_id HAVING count(*) <> $k)", {"k": k}
            ).fetchone()
            counts[f"a customer does not have {k} items"] = row[0] if row else 0
    return {promise: count for promise, count in counts.items() if count}


def customers_missing(histories: Sequence[Path], lists: Sequence[Path]) -> int:
    """Return how many customers of the histories' files have no row in the lists' files."""
    with parquet_views(histories=histories, lists=lists) as connection:
        row = connection.execute(
            "SELECT count(DISTINCT user_id) FROM histories ANTI JOIN lists USING (user_id)"
        ).fetchone()
    return row[0] if row else 0


def list_length(settings: Settings, shelf: Shelf) -> int | None:
    """Return how many items every list has; None where it depends on what the customer bought."""
    return None if settings.recommendations.exclude_bought else min(settings.recommendations.k, len(shelf.items))


def check_promises(folder: Path, settings: Settings, shelf: Shelf, day: str) -> None:
    """Raise HemlineError naming every broken promise of a staged partition."""
    broken = broken_promises(sorted(folder.iterdir()), shelf, day, list_length(settings, shelf))
    if broken:
        found = "; ".join(f"{promise}: {count}" for promise, count in broken.items())
        raise HemlineError(f"recommendations of {day} are not published, the table before stays: {found}")
