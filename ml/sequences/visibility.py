"""Which earlier steps of one customer an example may show: order, time and the click filter. Pure Python, no Spark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ml.settings import SequenceSettings

ACTIONS = ("search", "click", "purchase")
"""The walk knows an action by its position here."""
SEARCH, CLICK, PURCHASE = range(3)
_NO_ITEM = -1


class VisibleSteps:
    """The rows visible so far, oldest first, with removal of an item's clicks.

    Removed rows stay in the list until half of it is dead, so a walk over a customer costs time linear in events and
    in the rows handed out, whatever the number of events.
    """

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._clicked: list[int] = []  # parallel to _rows: the item if the row is a click, else _NO_ITEM
        self._click_counts: dict[int, int] = {}
        self._removed: set[int] = set()
        self._dead = 0

    def append(self, row: int, clicked_item: int = _NO_ITEM) -> None:
        """Add a row; `clicked_item` only for a click."""
        self._rows.append(row)
        self._clicked.append(clicked_item)
        if clicked_item != _NO_ITEM:
            self._click_counts[clicked_item] = self._click_counts.get(clicked_item, 0) + 1

    def remove_clicks(self, item: int) -> None:
        """Hide every click on `item`; the caller appends no further one."""
        self._dead += self._click_counts.pop(item, 0)
        self._removed.add(item)
        if 2 * self._dead > len(self._rows):
            alive = [i for i, clicked in enumerate(self._clicked) if clicked not in self._removed]
            self._rows = [self._rows[i] for i in alive]
            self._clicked = [self._clicked[i] for i in alive]
            self._dead = 0

    def newest(self, count: int, hidden_item: int = _NO_ITEM) -> list[int]:
        """Return at most `count` newest visible rows, oldest first, without clicks on `hidden_item`."""
        found: list[int] = []
        for row, clicked in zip(reversed(self._rows), reversed(self._clicked), strict=True):
            if clicked != _NO_ITEM and (clicked == hidden_item or clicked in self._removed):
                continue
            found.append(row)
            if len(found) == count:
                break
        found.reverse()
        return found


class NightClicks:
    """The clicks of earlier days on what a customer buys today: the night before showed them, the filter hides them.

    Rows come in order; `count` is how many of the newest are wanted.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._clicks: dict[int, list[tuple[int, int]]] = {}  # (row, day) of items not bought yet
        self._bought_today: list[int] = []
        self._today = 0

    def click(self, row: int, item: int, day: int) -> None:
        """Add a click on an item that is not bought yet."""
        self._clicks.setdefault(item, []).append((row, day))

    def buy(self, item: int, day: int) -> None:
        """Take the item's first purchase: from the next day on, nights hide its clicks too."""
        self._bought_today = self.of(item, day)
        self._today = day
        self._clicks.pop(item, None)

    def of(self, item: int, day: int) -> list[int]:
        """Return the newest rows on `item`, and on what was bought before it that day, oldest first."""
        own = [row for row, clicked in self._clicks.get(item, []) if clicked < day]
        earlier = self._bought_today if self._today == day else []
        return sorted({*own, *earlier})[-self._count :]


class Before(NamedTuple):
    """The row of a purchase, the rows of the steps its example may show, and the hidden clicks that its night showed.

    Both oldest first, `max_steps` at most.
    """

    purchase: int
    steps: list[int]
    night_clicks: list[int]


def steps_before_purchases(
    actions: Sequence[int], items: Sequence[int], times: Sequence[int], days: Sequence[int], settings: SequenceSettings
) -> Iterator[Before]:
    """Walk one customer's events in one category; yield each purchase with the steps its example may show.

    The events are in order of (time, event_id), `days` are the shop's. Yields every purchase that has a click or
    purchase before it, even where the click filter then leaves no step.

    Before means at an earlier time: events of the same instant are one basket, they do not see each other, and
    event_id only orders them for whoever sees them later. So a log whose clock is coarse shows less, never the future.

    The click filter (paper 5.1):
    - `asof`: without clicks on the example's own target, and without clicks on items that the customer had bought
      before the target's time. A click on what is bought later stays: at this time nobody knows.
    - `paper`: without clicks on anything the customer ever buys in these events. It looks into the future: a click
      that stays says "not bought".
    - `none`: every click.

    What was bought on the purchase's own day, itself or another item before it, nobody knew the night before: its
    clicks of earlier days are hidden from the example, and are the night clicks.
    """
    ever_bought = {item for action, item in zip(actions, items, strict=True) if action == PURCHASE}
    as_of, paper = settings.click_filter == "asof", settings.click_filter == "paper"
    visible = VisibleSteps()
    bought: set[int] = set()
    nights = NightClicks(settings.max_steps) if settings.click_filter != "none" else None
    seen_item_step = False
    for _, group in groupby(range(len(actions)), key=times.__getitem__):
        basket = list(group)
        purchases = [row for row in basket if actions[row] == PURCHASE]
        if seen_item_step:
            for row in purchases:
                steps = visible.newest(settings.max_steps, items[row] if as_of else _NO_ITEM)
                yield Before(row, steps, nights.of(items[row], days[row]) if nights else [])
        for item in {items[row] for row in purchases} - bought:
            bought.add(item)
            if nights:
                nights.buy(item, days[basket[0]])
            if as_of:
                visible.remove_clicks(item)
        for row in basket:
            if nights and actions[row] == CLICK and items[row] not in bought:
                nights.click(row, items[row], days[row])
            if actions[row] != CLICK:
                visible.append(row)
            elif not (as_of and items[row] in bought) and not (paper and items[row] in ever_bought):
                visible.append(row, items[row])
        seen_item_step = seen_item_step or any(actions[row] != SEARCH for row in basket)
