"""The distinct search texts of the log, whatever its size."""

from ml.warehouse import Warehouse


def distinct_queries(warehouse: Warehouse) -> list[str]:
    """Return every normalised query of the published `interactions`, sorted."""
    import duckdb

    files = [str(path) for path in warehouse.files("interactions")]
    if not files:
        return []
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT query FROM read_parquet(?, union_by_name=true) WHERE query IS NOT NULL ORDER BY query",
            [files],
        ).fetchall()
    return [query for (query,) in rows]
