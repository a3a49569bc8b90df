"""Asset checks on tables that break their promises: each turns red, and says which and how often."""

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_shop import EVE, LAST

from ml.errors import HemlineError
from ml.log import available_items
from ml.night.promises import promises
from ml.night.shelf import shelf
from ml.tables import TABLES
from pipelines.run import Runner


def results(shop, day):
    """Every asset check's (passed, metadata) by name, run as a run of `day` runs them."""
    runner = Runner(shop.settings)
    with runner.instance() as instance:
        definitions = dg.Definitions.merge(
            runner.definitions,
            dg.Definitions(jobs=[dg.define_asset_job("checks", dg.AssetSelection.all_asset_checks())]),
        )
        ran = definitions.resolve_job_def("checks").execute_in_process(
            instance=instance, tags={"dagster/partition": day}
        )
        return {
            one.check_name: (one.passed, {name: value.value for name, value in one.metadata.items()})
            for one in ran.get_asset_check_evaluations()
        }


def lists(shop, day=LAST):
    return shop.warehouse.read("recommendations", TABLES["recommendations"].names, date=day, category="Clothing")


def without_one_item(rows, shop):
    return rows.slice(1).sort_by([("user_id", "descending"), ("rank", "descending")])


def with_an_item_twice(rows, shop):
    first = rows.slice(0, 1).to_pylist()[0]
    items = [first["item_id"] if i == 1 else item for i, item in enumerate(rows["item_id"].to_pylist())]
    return rows.set_column(rows.schema.get_field_index("item_id"), rows.schema.field("item_id"), pa.array(items))


def with_an_unavailable_item(rows, shop):
    items = ["nobody-sells-this", *rows["item_id"].to_pylist()[1:]]
    return rows.set_column(rows.schema.get_field_index("item_id"), rows.schema.field("item_id"), pa.array(items))


def made_tomorrow(rows, shop):
    days = ["2999-01-01", *rows["listed_on"].to_pylist()[1:]]
    return rows.set_column(rows.schema.get_field_index("listed_on"), rows.schema.field("listed_on"), pa.array(days))


BROKEN = {
    without_one_item: "a customer does not have 10 items",
    with_an_item_twice: "a customer has an item twice",
    with_an_unavailable_item: "an item is not available on the day",
    made_tomorrow: "a list was made after the day",
}


@pytest.mark.parametrize("spoil", BROKEN)
def test_a_broken_list_turns_its_check_red_and_is_never_published(shop, tmp_path, spoil):
    own = shop.copy(tmp_path / "shop")
    rows = spoil(lists(own).sort_by([("user_id", "ascending"), ("rank", "ascending")]), own)
    items = shelf(
        own.settings, own.warehouse, LAST, "Clothing",
        available_items(own.warehouse, LAST, own.settings.recommendations.available_days),
    )  # fmt: skip
    checks = promises(own.settings, items, LAST)
    with pytest.raises(HemlineError, match=f"not published, the table before stays.*{BROKEN[spoil]}: 1"):
        own.warehouse.publish("recommendations", rows, checks=checks, date=LAST, category="Clothing")
    assert lists(own).equals(lists(shop))
    own.warehouse.publish("recommendations", rows, date=LAST, category="Clothing")
    passed, said = results(own, LAST)["lists_keep_their_promises"]
    assert not passed and said["day"] == LAST and said[f"Clothing: {BROKEN[spoil]}"] == 1


def test_a_check_looks_at_the_day_of_its_run(shop, tmp_path):
    own = shop.copy(tmp_path / "shop")
    one = lists(own, EVE)["user_id"][0]
    rows = lists(own, EVE).filter(pc.field("user_id") != one)
    own.warehouse.publish("recommendations", rows, date=EVE, category="Clothing")
    passed, said = results(own, EVE)["every_active_customer_has_a_list"]
    assert not passed and said["day"] == EVE and said["missing Clothing"] == 1
    assert results(own, LAST)["every_active_customer_has_a_list"][0]


def test_the_other_checks_turn_red_too(shop, tmp_path):
    own = shop.copy(tmp_path / "shop")
    warehouse = own.warehouse
    events = warehouse.read("interactions", TABLES["interactions"].names, date=LAST)
    older = warehouse.read("interactions", TABLES["interactions"].names, date=EVE).slice(0, 1)
    warehouse.publish("interactions", pa.concat_tables([events, older]), date=LAST)
    codes = warehouse.read("item_codes", TABLES["item_codes"].names)
    warehouse.publish("item_codes", codes.slice(1))
    examples = warehouse.read("training_sequences", TABLES["training_sequences"].names, category="Clothing")
    early = pc.min(examples["target_time"])
    times = pa.array([early.as_py()] * examples.num_rows, examples.schema.field("target_time").type)
    place = examples.schema.get_field_index("target_time")
    examples = examples.set_column(place, examples.schema.field("target_time"), times)
    warehouse.publish("training_sequences", examples, category="Clothing")
    found = results(own, LAST)
    passed, said = found["events_belong_to_their_day"]
    assert not passed and said["strays"] == 1
    assert not found["every_item_has_its_own_code"][0] and found["every_item_has_its_own_code"][1]["missing"] == 1
    assert not found["no_step_from_the_future"][0]
