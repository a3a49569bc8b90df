"""Which examples train, choose and report: the temporal split, the paper's leave-one-out, and the cap per customer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_EPOCH = date(1970, 1, 1)


def temporal_split(target_days: np.ndarray, as_of: date, validation_days: int, test_days: int) -> list[str]:
    """Return each example's part by the day of its purchase.

    `target_days`: days since 1970-01-01. The `test_days` newest days up to `as_of` are test, the `validation_days`
    before them validation, all older ones train.
    """
    test_from = (as_of - _EPOCH).days - test_days + 1
    parts = np.where(
        target_days >= test_from, TEST, np.where(target_days >= test_from - validation_days, VALIDATION, TRAIN)
    )
    return parts.tolist()


def leave_one_out_split(eligible: Sequence[bool]) -> list[str]:
    """Return the part of each of one customer's rows, which are in time order (paper 5.1).

    The last eligible row is test, the one before it validation, the older ones train. An ineligible row goes with the
    part whose time it stands in: from the test row on test, from the validation row on validation, else train. So no
    train row is later than the validation row, and none but an eligible row is ever to be scored.
    """
    positions = [i for i, is_eligible in enumerate(eligible) if is_eligible]
    test_from = positions[-1] if positions else len(eligible)
    validation_from = positions[-2] if len(positions) > 1 else test_from
    return [TEST if i >= test_from else VALIDATION if i >= validation_from else TRAIN for i in range(len(eligible))]


def within_cap(
    eligible: Sequence[bool], temporal: Sequence[str], leave_one_out: Sequence[str], cap: int | None
) -> list[bool]:
    """Return which of one customer's rows, in time order, are kept under `max_examples_per_user`.

    Of the eligible rows the newest `cap` that each split trains on stay, older ones go. Held-out rows always stay, so
    that what is reported is the same whatever the cap; ineligible rows stay too, as they are no examples.
    """
    if cap is None:
        return [True] * len(eligible)
    keep = [not is_eligible for is_eligible in eligible]
    for parts in (temporal, leave_one_out):
        train = [i for i, part in enumerate(parts) if eligible[i] and part == TRAIN]
        held_out = [i for i, part in enumerate(parts) if part != TRAIN]
        for i in train[-cap:] + held_out:
            keep[i] = True
    return keep
