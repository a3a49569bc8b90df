"""A shop of two customers in a moment, and one of them forgotten: for tests of where a customer may be left."""

import json
from datetime import UTC, date, datetime

import pyarrow as pa
from model_registries import TAGS, new_registry

from ml.models.registry import ModelRegistry
from ml.people.forgetting import forget
from ml.settings import Settings, SparkSettings
from ml.spark import SparkSource
from ml.tables import TABLES
from ml.warehouse import Warehouse

CANARY, OTHER = "canary-4711", "somebody-else"
DAYS = ["2026-03-01", "2026-03-02"]


def table(name, rows):
    schema = TABLES[name].schema
    return pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in rows], schema)


def made(folder, warehouse=None, registry=None):
    """A shop of two customers with a row of each in what is made of events; on a disk where nothing else is given."""
    warehouse = warehouse or Warehouse(folder / "warehouse", grace_seconds=0)
    splits = {"temporal_split": "train", "leave_one_out_split": "train"}
    times = {day: datetime.fromisoformat(day).replace(hour=9, tzinfo=UTC) for day in DAYS}
    users = (CANARY, OTHER)
    for day in DAYS:
        event = {"event_time": times[day], "action": "purchase", "item_id": "i", "category": "Hats"}
        own = [{**event, "event_id": f"{user}-{day}", "user_id": user, "session_id": f"visit-{user}"} for user in users]
        warehouse.publish("interactions", table("interactions", own), date=day)
        broken = [{"event_id": f"bad-{user}", "reason": "unknown action", "source_file": "f",
                   "row": json.dumps({"user_id": user, "event_id": f"bad-{user}"})} for user in users]  # fmt: skip
        warehouse.publish("rejected_interactions", table("rejected_interactions", broken), date=day)
        lists = [{"user_id": user, "rank": 1, "item_id": "i", "score": 1.0, "source": "popular", "part": "popular",
                  "listed_on": day, "model_from_future": False} for user in users]  # fmt: skip
        warehouse.publish("recommendations", table("recommendations", lists), date=day, category="Hats")
    examples = [{"example_id": f"{user}-{DAYS[1]}", "user_id": user, "target_item": "i", "target_time": times[DAYS[1]],
                 "target_date": date.fromisoformat(DAYS[1]), "steps": [], "night_clicks": [],
                 "item_steps": 0, "eligible": True, **splits}
                for user in users]  # fmt: skip
    warehouse.publish("training_sequences", table("training_sequences", examples), category="Hats")
    kept = [{"example_id": f"{user}-{DAYS[1]}", "variant": "all", "perplexity": 2.0, "trained_longer": False}
            for user in users]  # fmt: skip
    warehouse.publish("prompt_perplexity", table("prompt_perplexity", kept), category="Hats")
    registry = registry or new_registry(folder)
    with registry.run("adapter", "Hats", tags=TAGS, params={}) as run:
        run.table(table("prompt_perplexity", kept), "prompt_perplexity.json")
    return warehouse


def forget_in(folder, users, on_point=lambda point: None, warehouse=None, on_wait=lambda: None):
    """Forget customers of the shop in `folder`, which keeps no records of an orchestrator."""
    settings = Settings(home=folder, warehouse=folder / "warehouse", report=folder / "report", categories=["Hats"])
    warehouse = warehouse or Warehouse(settings.warehouse, grace_seconds=0, on_point=on_point)
    registry = ModelRegistry(f"sqlite:///{folder}/mlflow.db", folder / "artifacts", folder / "cache")
    spark = SparkSource(SparkSettings())
    return forget(settings, warehouse, registry, spark, users, {"Hats": ["Hats"]}, lambda scrub: {}, on_wait)
