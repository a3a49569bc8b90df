"""What to run after raw files came late or were changed: exactly the days that a raw partition can change.

A raw partition P is read for the days P−`late_days` … P+1 (`ml.log.days_made_from`), so:

- **The log** (`interactions`, `rejected_interactions`, `query_daily`) of those days, as far as they are published, is
  ingested again; no other day's log can differ.
- **P's own night** is run if it has no table and its time has come: the schedule skipped it for want of this partition.
- **The newest night** is run again if it is P or later. Its lists read everything up to its day (histories without a
  limit, active customers, availability and memory through their windows), so any earlier change can reach them, and
  they are what customers see now. The lists of nights before it stay as they are: customers have seen them and
  `realised` has scored them. To rewrite those too, backfill `nightly` over the days that follow, at most the largest of
  `active_days`, `available_days` and `memory.window_days` for a customer, an item or a query to drop out again.

A day whose run started after the files arrived has seen them, whoever started it, and is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ml.log import RawState, days_made_from
from pipelines.run import missing_ranges

MAX_REQUESTS = 6
"""Runs asked for in one tick; what is left waits for the next."""
_NEWEST = 2
"""Of these, kept for running the newest night again, which may part a range of days in two."""


@dataclass(frozen=True)
class Published:
    """What is published: the days of the log and of lists, and whether a day's log was made after a moment."""

    log: frozenset[str]
    lists: frozenset[str]
    made_since: Callable[[str, float], bool]
    night_is_due: Callable[[str], bool]


@dataclass
class Plan:
    """Ranges of days to ingest, then nights to run, oldest first; `done` are the raw partitions this answers."""

    ranges: list[tuple[str, str]] = field(default_factory=list)
    nights: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    remake: bool = False


def plan(changed: Mapping[str, RawState], published: Published, late_days: int, remake: bool = False) -> Plan:
    """Return what to run for the `changed` raw partitions, at most `MAX_REQUESTS` runs.

    `remake` says that an earlier tick left the newest night to be run again; it is, once, after the last change.
    """
    newest = max(published.lists, default="")
    log: set[str] = set()
    nights: set[str] = set()
    found = Plan(remake=remake)
    for partition in sorted(changed):
        arrived = changed[partition].arrived
        days = {d for d in days_made_from(partition, late_days) if d in published.log}
        stale = {day for day in days if not published.made_since(day, arrived)}
        night = {partition} - published.lists
        if not published.night_is_due(partition) or published.made_since(partition, arrived):
            night = set()
        ranges = missing_ranges(sorted((log | stale) - nights - night), ())
        if len(ranges) + len(nights | night) > MAX_REQUESTS - _NEWEST and found.done:
            break
        log |= stale
        nights |= night
        found.remake |= bool(stale | night) and partition <= newest
        found.done.append(partition)
    if found.remake and len(found.done) == len(changed):
        nights.add(newest)
        found.remake = False
    found.ranges = missing_ranges(sorted(log - nights), ())
    found.nights = sorted(nights)
    return found


def waiting(states: Mapping[str, RawState], seen: Mapping[str, str]) -> Sequence[str]:
    """Return the partitions whose files are not those that were seen."""
    return [day for day, state in states.items() if seen.get(day) != state.fingerprint]
