"""A small catalogue and a customer's steps, for the tests of prompts."""

import datetime as dt
from functools import cache

import pyarrow as pa
from prompt_tokenizers import tokenizer

from ml.prompts import PromptBuilder, assign_codes
from ml.settings import PromptSettings
from ml.tables import TABLES

ITEMS = {
    "i1": ("Rib top - Black - Ladies", {"product_type": "Vest top", "color": "Black", "pattern": "Solid"}),
    "i2": ("Linen shirt - Sand - Men", {"product_type": "Shirt", "color": "Sand", "pattern": "Stripe"}),
    "i3": ("Wrap dress - Rust - Ladies", {"product_type": "Dress", "color": "Rust", "pattern": ""}),
    "i4": ("Canvas belt", {"color": "Navy", "section": "navy"}),
    "i5": ("Wool scarf - Grey", {}),
}


def catalog(items=None):
    rows = [
        {"item_id": item, "title": title, "category": "Clothing", "attributes": list(attributes.items())}
        for item, (title, attributes) in (items or ITEMS).items()
    ]
    return pa.Table.from_pylist(rows, TABLES["catalog"].schema)


def builder(family="byte_level", items=None, coded=None, **settings):
    """A builder whose items all have codes, unless `coded` lists those that have."""
    items = items or ITEMS
    codes = codes_of(family, tuple(items if coded is None else coded))
    return PromptBuilder(tokenizer(family), catalog(items), codes, PromptSettings(**settings))


@cache
def codes_of(family, items):
    """The item_codes table of some items."""
    return assign_codes(tokenizer(family), None, items)


def step(action, what, minute=0):
    """A step: `what` is the query of a search, and the item of a click or purchase."""
    return {
        "event_time": dt.datetime(2024, 3, 1, 12, minute, tzinfo=dt.UTC),
        "event_id": f"e{minute}",
        "action": action,
        "item_id": None if action == "search" else what,
        "query": what if action == "search" else None,
        "position": None,
    }


STEPS = [step("purchase", "i2"), step("search", "black top"), step("click", "i1"), step("purchase", "i4")]


def example(number, *, split="train", steps=None, query="black top", target="i3"):
    """A row of training_sequences with its category."""
    return {
        "example_id": f"x{number}",
        "user_id": f"u{number % 7}",
        "category": "Clothing",
        "target_item": target,
        "target_time": dt.datetime(2024, 3, 2, tzinfo=dt.UTC),
        "target_date": dt.date(2024, 3, 2),
        "query": query,
        "steps": STEPS if steps is None else steps,
        "night_clicks": [],
        "item_steps": 3,
        "eligible": True,
        "temporal_split": split,
        "leave_one_out_split": "train",
    }


def examples(rows):
    schema = TABLES["training_sequences"].schema
    return pa.Table.from_pylist(rows, schema.append(pa.field("category", pa.string())))
