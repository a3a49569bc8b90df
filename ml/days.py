"""Days of the shop's calendar: they begin and end at its own midnight, however many hours they have."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo


def end_of_day(day: str, zone: ZoneInfo) -> datetime:
    """Return the first moment after `day` (YYYY-MM-DD)."""
    return datetime.combine(date.fromisoformat(day) + timedelta(days=1), time(), zone)


def last_ended_day(moment: datetime, zone: ZoneInfo) -> str:
    """Return the day that ended last before `moment`."""
    return (moment.astimezone(zone).date() - timedelta(days=1)).isoformat()
