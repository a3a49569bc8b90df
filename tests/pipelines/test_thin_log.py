"""A log of purchases alone, without searches, clicks, sessions and positions, through every command."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from small_shop import DAYS, Shop, save_language_model, save_text_encoder

from pipelines import flows
from pipelines.resources import model_registry
from pipelines.run import Runner

FIRST, *_, FITTED, LAST = days = DAYS[:8]
CUSTOMERS, ITEMS, K = 8, 12, 10
SETTINGS = {
    "raw_log": "raw/interactions",
    "catalog": "raw/catalog.parquet",
    "warehouse": "warehouse",
    "home": ".hemline",
    "categories": ["Clothing"],
    "start_date": FIRST,
    "min_train_examples": 8,
    "prompts": {"max_train": 12, "max_validation": 4, "max_tokens": 600},
    "generation": {"max_new_tokens": 12, "max_users": 4, "chunk_users": 4},
    "item_embeddings": {"epochs": 1, "dim": 16, "layers": 1},
    "recommendations": {"ranker": {"use_answers": "always"}},  # a model of random weights is of no use to anybody
    "evaluation": {"users": 6, "resamples": 50},
}


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """Every customer buys one item a day; the log has the five columns it must have, the catalogue three."""
    shop = Shop(tmp_path_factory.mktemp("thin"))
    for number, day in enumerate(days):
        noon = datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC)
        rows = [
            {
                "event_id": f"{day}-{customer}",
                "user_id": f"customer-{customer}",
                "event_time": noon + timedelta(minutes=customer),
                "action": "purchase",
                "item_id": f"item-{(5 * customer + 7 * number) % ITEMS}",
            }
            for customer in range(CUSTOMERS)
        ]
        shop.raw(day).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), shop.raw(day) / "part.parquet")
    items = [f"item-{number}" for number in range(ITEMS)]
    listing = {"item_id": items, "title": [f"Plain {item}" for item in items], "category": ["Clothing"] * ITEMS}
    pq.write_table(pa.table(listing), shop.folder / "raw" / "catalog.parquet")
    save_language_model(shop.folder / "tiny-llama")
    save_text_encoder(shop.folder / "tiny-bert")
    model = {"base_model": str(shop.folder / "tiny-llama"), "batch_size": 4, "learning_rate": 1e-3, "hard_epochs": 1}
    memory = {"encoder": str(shop.folder / "tiny-bert")}
    shop.file.write_text(yaml.safe_dump({**SETTINGS, "language_model": model, "memory": memory}))
    runner = Runner(shop.settings)
    flows.train(runner, FITTED)
    flows.nightly(runner, LAST)
    flows.evaluate(runner)
    return shop


def test_every_purchase_is_kept_with_what_it_has(shop):
    rows = shop.rows("interactions")
    assert len(rows) == CUSTOMERS * len(days)
    for name in ("session_id", "query", "query_original", "position"):
        assert {row[name] for row in rows} == {None}
    assert shop.rows("rejected_interactions") == []


def test_what_needs_searches_is_published_empty(shop):
    for table in ("query_daily", "query_vectors", "query_memory", "query_title_pairs"):
        assert shop.warehouse.exists(table), table
        assert shop.rows(table) == [], table
    assert shop.warehouse.days("query_daily") == days
    assert all(row["query"] is None and row["target_query"] is None for row in shop.rows("training_sequences"))
    assert {step["action"] for row in shop.rows("user_histories") for step in row["steps"]} == {"purchase"}


def test_the_text_encoder_stands_in_for_the_title_encoder(shop):
    champion = model_registry(shop.settings).champion("title_encoder", "Clothing")
    assert champion.tags["encoder"] == "text_encoder"
    assert [path.name for path in champion.folder.iterdir()] == ["text_encoder.json"]


def test_every_customer_has_a_whole_list(shop):
    lists = defaultdict(list)
    for row in shop.rows("recommendations", date=LAST, category="Clothing"):
        lists[row["user_id"]].append(row)
    assert set(lists) == {f"customer-{number}" for number in range(CUSTOMERS)}
    for rows in lists.values():
        assert sorted(row["rank"] for row in rows) == list(range(1, K + 1))
        assert len({row["item_id"] for row in rows}) == K
    sources = {row["source"] for rows in lists.values() for row in rows}
    assert sources == {"language_model", "retrieval"}
    assert all(row["parsed"] for row in shop.rows("generations", date=LAST, category="Clothing"))


def test_both_views_of_the_log_are_the_same(shop):
    """All steps are purchases, so that seeing only purchases changes no system's answer."""
    values = defaultdict(dict)
    for row in shop.rows("evaluation_metrics", category="Clothing"):
        key = row["system"], row["split"], row["candidates"], row["metric"]
        values[row["actions"]][key] = row["value"]
    assert values["all"] == values["purchases_only"]
    assert {"ours", "popularity", "core"} <= {system for system, *_ in values["all"]}
