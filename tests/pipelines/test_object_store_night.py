"""A night of the small shop, through every real stage, with its warehouse on an object store."""

import shutil

from object_store_places import fresh_url
from small_shop import LAST

from pipelines import flows
from pipelines.run import Runner


def move_tables(folder, store):
    """Publish every partition of a local warehouse on a store, and leave nothing behind."""
    for leaf in sorted({path.parent for path in folder.rglob("*.parquet")}):
        store.put(leaf.relative_to(folder), leaf, lambda point: None)
    shutil.rmtree(folder)


def test_a_night_on_an_object_store_makes_the_tables_that_it_makes_on_a_disk(eve_shop, shop, s3, tmp_path):
    own = eve_shop.copy(tmp_path / "shop")
    own.change(warehouse=fresh_url(), object_store={"endpoint": s3.endpoint})
    from ml.warehouse import open_warehouse

    warehouse = open_warehouse(own.settings)
    move_tables(own.folder / "warehouse", warehouse.store)
    flows.nightly(Runner(own.settings), LAST)
    for table in ("interactions", "query_daily", "user_histories", "generations", "recommendations", "realised"):
        assert warehouse.content(table, date=LAST) == shop.warehouse.content(table, date=LAST) != [], table
    assert not (own.folder / "warehouse").exists()
    keys = s3.keys(own.settings.warehouse)
    assert s3.uploads() == [] and not [key for key in keys if not key.startswith("_heads/") and "/part-" not in key]
