"""Random small logs, and the rules of sequences once more: slow, obvious, for one customer at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
from hypothesis import strategies as st

from ml.settings import SequenceSettings
from ml.tables import TABLES, TIME

START = datetime(2020, 9, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Event:
    event_id: str
    user_id: str
    event_time: datetime
    action: str
    item_id: str | None
    query: str | None
    position: int | None
    category: str | None

    @property
    def order(self) -> tuple[datetime, str]:
        return self.event_time, self.event_id

    @property
    def step(self) -> dict[str, object]:
        return {
            name: getattr(self, name) for name in ("event_time", "event_id", "action", "item_id", "query", "position")
        }


def day_of(event: Event, zone: str = "UTC") -> date:
    return event.event_time.astimezone(ZoneInfo(zone)).date()


@st.composite
def logs(draw, users: int = 4, items: int = 5, hours: int = 96, max_events: int = 60) -> list[Event]:
    """Logs with few customers, items and instants, so that repeats and ties are common; event ids in random order."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, users - 1),
                st.integers(0, hours // 3),
                st.sampled_from(["search", "click", "click", "purchase", "purchase"]),
                st.integers(0, items - 1),
                st.sampled_from([None, "red dress", "boots"]),
                st.sampled_from(["Clothing", "Clothing", "Clothing", "Footwear"]),
            ),
            min_size=max_events // 2,
            max_size=max_events,
        )
    )
    ids = draw(st.permutations(range(len(rows))))
    return [
        Event(
            f"e{i:03}",
            f"u{user}",
            START + timedelta(hours=3 * hour),
            action,
            None if action == "search" else f"{category[0]}{item}",
            (query or "anything") if action == "search" else query,
            item + 1 if query and action != "search" else None,
            None if action == "search" and item == 0 else category,
        )
        for i, (user, hour, action, item, query, category) in zip(ids, rows, strict=True)
    ]


def interactions_table(events: Sequence[Event], zone: str = "UTC") -> pa.Table:
    rows = [
        {**event.step, "user_id": event.user_id, "category": event.category, "date": day_of(event, zone).isoformat()}
        for event in events
    ]
    for row in rows:
        row.update(session_id=None, query_original=row["query"])
    return pa.Table.from_pylist(rows, pa.schema([*TABLES["interactions"].schema, pa.field("date", pa.string())]))


def ordered_batches(events: Sequence[Event], batch_rows: int, zone: str = "UTC") -> list[pa.RecordBatch]:
    """Events as `examples_of_events` takes them."""
    known = sorted((e for e in events if e.category), key=lambda e: (e.category, e.user_id, *e.order))
    rows = [{**e.step, "category": e.category, "user_id": e.user_id, "shop_day": day_of(e, zone)} for e in known]
    fields = {name: pa.string() for name in ("category", "user_id", "event_id", "action", "item_id", "query")}
    schema = pa.schema({**fields, "event_time": TIME, "position": pa.int32(), "shop_day": pa.date32()})
    return pa.Table.from_pylist(rows, schema).to_batches(max_chunksize=batch_rows)


def expected_examples(
    events: Sequence[Event], settings: SequenceSettings, as_of: date, zone: str = "UTC"
) -> list[dict[str, object]]:
    """The `training_sequences` rows of a log, by the rules as they are written; no cap per customer."""
    logs_of: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        if event.category and day_of(event, zone) <= as_of:
            logs_of[event.category, event.user_id].append(event)
    rows = []
    for log in logs_of.values():
        own = [_example(target, log, settings, as_of, zone) for target in sorted(log, key=lambda e: e.order)]
        own = [row for row in own if row]
        _leave_one_out(own)
        rows += own
    return rows


def _example(target: Event, log: list[Event], settings: SequenceSettings, as_of: date, zone: str) -> dict | None:
    if settings.actions == "purchases_only":
        log = [e for e in log if e.action == "purchase"]
    before = sorted((e for e in log if e.event_time < target.event_time), key=lambda e: e.order)
    if target.action != "purchase" or all(e.action == "search" for e in before):
        return None
    purchases = [e for e in log if e.action == "purchase"]
    hidden: set[str | None] = set()
    if settings.click_filter == "asof":
        hidden = {target.item_id} | {e.item_id for e in purchases if e.event_time < target.event_time}
    elif settings.click_filter == "paper":
        hidden = {e.item_id for e in purchases}
    shown = [e for e in before if e.action != "click" or e.item_id not in hidden][-settings.max_steps :]
    today = day_of(target, zone)
    bought = {e.item_id for e in before if e.action == "purchase"} | {target.item_id}
    known = {e.item_id for e in before if e.action == "purchase" and day_of(e, zone) < today}
    looked = [e for e in before if e.action == "click" and day_of(e, zone) < today and e.item_id in bought - known]
    if settings.click_filter == "none":
        looked = []
    queries = [e.query for e in shown if e.action == "search"]
    bare = {"query": None, "position": None} if settings.actions == "purchases_only" else {}
    age = (as_of - day_of(target, zone)).days
    item_steps = sum(e.action != "search" for e in shown)
    return {
        "category": target.category,
        "example_id": target.event_id,
        "user_id": target.user_id,
        "target_item": target.item_id,
        "target_time": target.event_time,
        "target_date": day_of(target, zone),
        "query": queries[-1] if queries else None,
        "target_query": None if bare else target.query,
        "steps": [{**e.step, **bare} for e in shown],
        "night_clicks": [e.step for e in looked[-settings.max_steps :]],
        "item_steps": item_steps,
        "eligible": item_steps >= settings.min_item_steps,
        "temporal_split": "test"
        if age < settings.test_days
        else "validation"
        if age < settings.test_days + settings.validation_days
        else "train",
    }


def _leave_one_out(rows: list[dict]) -> None:
    eligible = [(row["target_time"], row["example_id"]) for row in rows if row["eligible"]]
    for row in rows:
        newer = sum(key > (row["target_time"], row["example_id"]) for key in eligible)
        row["leave_one_out_split"] = "train"
        if eligible and newer == 0:
            row["leave_one_out_split"] = "test"
        elif len(eligible) > 1 and newer == 1:
            row["leave_one_out_split"] = "validation"


def by_example(rows: Sequence[dict]) -> dict[str, dict]:
    found = {row["example_id"]: row for row in rows}
    assert len(found) == len(rows), "an example stands twice"
    return found
