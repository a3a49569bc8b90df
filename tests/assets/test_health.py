"""The checks on last night's table, run by Dagster on real tables: green on usual nights, each red for a reason."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
import pytest

from assets.health import check_presence, health_checks, night_health
from ml.health import SIGNS
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse
from pipelines.build import build_definitions

FIRST = date(2026, 5, 1)
USERS, K = 40, 5


def day(number):
    """A day, from 0."""
    return (FIRST + timedelta(days=number)).isoformat()


class Nights:
    """A warehouse with nights, and what the checks say of the newest."""

    def __init__(self, folder, **health):
        self.settings = Settings(
            home=folder / "home", warehouse=folder / "warehouse", raw_log=folder / "raw", categories=["Hats"],
            start_date=FIRST.isoformat(), health=health,
        )  # fmt: skip
        self.warehouse = Warehouse(self.settings.warehouse, grace_seconds=0)

    def publish(self, number, users=USERS, catalogue=30, shift=0, score=1.0, sources=("retrieval",), **values):
        """A night's lists: user u gets items u+shift …; sources take turns; the table before had `recall`."""
        fitted = values.get("fitted_until", day(number - 2))
        rows = [
            {
                "user_id": f"u{user}", "rank": rank, "item_id": f"i{(user + shift + rank) % catalogue}",
                "score": score * (1 + user / USERS) / rank, "source": sources[user % len(sources)], "part": "fusion",
                "listed_on": day(number), "title_encoder_version": "1", "item_embeddings_version": "1",
                "fitted_until": fitted, "model_from_future": False,
            }
            for user in range(users) for rank in range(1, K + 1)
        ]  # fmt: skip
        schema = TABLES["recommendations"].schema
        self.warehouse.publish("recommendations", pa.Table.from_pylist(rows, schema), date=day(number), category="Hats")
        realised = {
            "category": "Hats", "source": "all", "metric": "recall", "value": values.get("recall", 0.2),
            "customers": values.get("buyers", 50), "buyers": 60,
        }  # fmt: skip
        schema = TABLES["realised"].schema
        self.warehouse.publish("realised", pa.Table.from_pylist([realised], schema), date=day(number))
        return self.look(number)

    def look(self, number):
        """Materialise the night's numbers and run every check: name → result."""
        checks = [check for check in health_checks() if {k.name for k in check.check_keys} <= set(SIGNS)]
        with dg.DagsterInstance.ephemeral() as instance:
            partitions = dg.DailyPartitionsDefinition(FIRST.isoformat())
            asset = night_health.map_asset_specs(lambda s: s.replace_attributes(partitions_def=partitions))
            self.result = dg.materialize(
                [asset, *checks], instance=instance, partition_key=day(number),
                resources={"settings": self.settings, "warehouse": self.warehouse},
            )  # fmt: skip
        assert self.result.success, "a red check fails no night"
        return {found.check_name: found for found in self.result.get_asset_check_evaluations()}


def red(found):
    """The names of the checks that failed."""
    return {name for name, one in found.items() if not one.passed}


@pytest.fixture
def nights(tmp_path):
    """Five usual nights."""
    made = Nights(tmp_path)
    for number in range(5):
        found = made.publish(number)
        assert red(found) == set()
    assert set(found) == set(SIGNS)
    return made


@pytest.mark.parametrize(
    ("changed", "sign", "words"),
    [
        ({"users": 25}, "users_covered", ["Hats", "25", "40", "80%"]),
        ({"catalogue": 12}, "items_covered", ["Hats", "12", "30", "70%"]),
        ({"sources": ("carried",)}, "carried_share", ["Hats", "usual 0", "0.25 more"]),
        ({"sources": ("popular", "retrieval")}, "popular_share", ["Hats", "0.5", "usual 0", "0.1 more"]),
        ({"fitted_until": day(-30)}, "model_age", ["Hats", "35", "21"]),
        ({"score": 3.0}, "score_distribution", ["Hats retrieval", "widths"]),
        ({"shift": 15}, "overlap_with_yesterday", ["Hats", "overlap 0", "usual 1"]),
        ({"recall": 0.05}, "realised_quality", ["Hats", "0.05", "0.2", "50%"]),
    ],
)
def test_each_sign_turns_its_own_check_red_and_says_what_was_expected(nights, changed, sign, words):
    found = nights.publish(5, **changed)
    assert sign in red(found) and red(found) <= {sign, "overlap_with_yesterday"}
    for word in words:
        assert word in found[sign].description
    assert found[sign].metadata["days_before"].value == 5
    assert red(nights.publish(6)) <= {"overlap_with_yesterday"}, "one odd night is not the usual"


@pytest.mark.parametrize("sign", ["users_covered", "items_covered", "score_distribution", "realised_quality"])
def test_without_history_a_check_says_so_and_passes(tmp_path, sign):
    nights = Nights(tmp_path)
    nights.publish(0)
    found = nights.publish(1, users=3, catalogue=6, score=9.0, recall=0.0)
    assert red(found) == set()
    assert "no usual" in found[sign].description and "Hats" in found[sign].description


def test_too_few_buyers_say_nothing_about_quality(nights):
    found = nights.publish(5, recall=0.0, buyers=7)
    assert found["realised_quality"].passed and "Hats" in found["realised_quality"].description


def test_thresholds_are_settings(tmp_path):
    nights = Nights(tmp_path, max_popular_rise=0.6, min_history=1)
    nights.publish(0)
    assert red(nights.publish(1, sources=("popular", "retrieval"))) == set()
    assert red(nights.publish(2, users=25)) == {"users_covered"}


def test_a_category_that_lost_its_table_is_too_small(nights):
    number = 5
    nights.settings = nights.settings.model_copy(update={"categories": ["Coats", "Hats"]})
    nights.warehouse.publish("realised", TABLES["realised"].schema.empty_table(), date=day(number))
    assert "users_covered" in red(nights.look(number))


def test_the_numbers_are_in_the_table_and_in_the_plots(nights):
    (made,) = nights.result.asset_materializations_for_node("night_health")
    numbers = {name: made.metadata[f"Hats {name}"].value for name in ("users", "items", "overlap", "recall")}
    assert numbers == {"users": 40, "items": 30, "overlap": 1, "recall": 0.2}
    assert made.metadata["Hats model_age_days"].value == 2
    rows = {(r["source"], r["metric"]): r for r in nights.warehouse.read("night_health", date=day(4)).to_pylist()}
    assert rows["retrieval", "score_p50"]["value"] == pytest.approx(1 + 19.5 / USERS)
    assert rows["all", "recall"]["customers"] == 50


@pytest.mark.parametrize("hour", [1, 12, 23])
def test_a_missing_night_is_red_by_the_shops_clock(nights, hour):
    zone = ZoneInfo("America/New_York")
    nights.settings = nights.settings.model_copy(
        update={"log": nights.settings.log.model_copy(update={"time_zone": str(zone)})}
    )
    there = datetime.combine(date.fromisoformat(day(5)), datetime.min.time(), zone).replace(hour=hour)
    assert check_presence(nights.settings, nights.warehouse, there).passed
    late = check_presence(nights.settings, nights.warehouse, there + timedelta(days=1))
    assert not late.passed and day(5) in late.description and day(4) in late.description
    assert "is not there" in late.description
    (nights.settings.raw_log / f"event_date={day(5)}").mkdir(parents=True)
    late = check_presence(nights.settings, nights.warehouse, there + timedelta(days=1))
    assert not late.passed and "has failed" in late.description


def test_the_morning_job_asks_for_the_table_and_turns_red_without_one(tmp_path):
    settings = Nights(tmp_path).settings
    job = build_definitions(settings).resolve_job_def("health")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance)
    (found,) = result.get_asset_check_evaluations()
    assert result.success and not found.passed and "Hats" in found.description


def test_what_a_night_makes_has_to_be_fresh_in_the_morning(tmp_path):
    graph = build_definitions(Nights(tmp_path).settings).resolve_asset_graph()
    policies = {
        key.to_user_string(): policy
        for key in graph.get_all_asset_keys()
        if (policy := graph.get(key).freshness_policy) is not None
    }
    assert set(policies) == {
        "interactions", "user_histories", "generations", "recommendations", "realised", "night_health",
    }  # fmt: skip
    assert {policy.deadline_cron for policy in policies.values()} == {"30 7 * * *"}
