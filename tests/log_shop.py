"""A shop of three days that has a log and a catalogue and nothing else: ready in a moment, for tests of ingestion."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from small_shop import DAYS, LAST, Shop, event, write_events

CUSTOMERS, ITEMS = 12, 30


def make_log_shop(folder, **settings):
    """Write the log, the catalogue and the settings of two categories."""
    shop, chance = Shop(folder), random.Random(0)
    items = [f"item-{number}" for number in range(ITEMS)]
    for day in DAYS[-3:]:
        write_events(shop, day, list(_events(day, items, chance)))
    rows = [
        {"item_id": item, "title": f"Title {item}", "category": "Clothing" if number % 3 else "Footwear"}
        for number, item in enumerate(items)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "raw" / "catalog.parquet")
    places = {
        "raw_log": "raw/interactions", "catalog": "raw/catalog.parquet", "warehouse": "warehouse", "home": ".hemline",
        "start_date": LAST, "categories": ["Clothing", "Footwear"], "log": {"max_reject_share": 0.1},
        "spark": {"master": "local[2]", "driver_memory": "1g", "shuffle_partitions": 2},
    }  # fmt: skip
    shop.file.write_text(yaml.safe_dump({**places, **settings}))
    return shop


def _events(day, items, chance):
    for customer in range(CUSTOMERS):
        for number in range(10):
            action = chance.choice(["search", "click", "click", "purchase"])
            values = {"user_id": f"user-{customer}", "session_id": f"{customer}-{number // 4}", "minute": 7 * number}
            if action == "search":
                values |= {"item_id": None, "query": chance.choice(["Red  SHOES", "blue ｓocks", "coat"])}
            else:
                values |= {"item_id": chance.choice(items), "position": chance.randint(1, 20)}
            yield event(f"{day}-{customer}-{number}", day, action=action, **values)
    yield event(f"{day}-bad", day, item_id="unknown")
