"""The small shop's two nights through every real stage: what is published, and that no part of it knew its future."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from small_shop import (
    AS_OF,
    BAGS,
    CATEGORIES,
    DAYS,
    EVE,
    LAST,
    LOOKING,
    PLANTED,
    PLANTED_QUERY,
    event,
    write_events,
)

from pipelines import flows
from pipelines.resources import model_registry
from pipelines.run import RunFailedError, Runner

K = 10


def lists_of(shop, day, category):
    """Every customer's list, best first, and its source."""
    lists = defaultdict(list)
    for row in sorted(shop.rows("recommendations", date=day, category=category), key=lambda r: r["rank"]):
        lists[row["user_id"]].append(row)
    return lists


def items_with_events(shop, until):
    return {row["item_id"] for day in DAYS if day <= until for row in shop.rows("interactions", date=day)} - {None}


@pytest.mark.parametrize("day", [EVE, LAST])
@pytest.mark.parametrize("category", CATEGORIES)
def test_every_active_customer_has_a_whole_list_of_available_items(shop, day, category):
    active = {row["user_id"] for row in shop.rows("user_histories", date=day)}
    own = {row["item_id"] for row in shop.rows("catalog") if row["category"] == category}
    sold = items_with_events(shop, day) & own
    lists = lists_of(shop, day, category)
    if category == "Gifts":  # no item: an empty partition, not a failed night
        assert not sold and not lists and shop.warehouse.exists("recommendations", date=day, category=category)
        return
    assert len(active) >= 40 and set(lists) == active
    for rows in lists.values():
        assert [row["rank"] for row in rows] == list(range(1, min(K, len(sold)) + 1))
        assert len({row["item_id"] for row in rows}) == len(rows)
        assert {row["item_id"] for row in rows} <= sold
    if category == "Bags":  # K is larger than the catalogue
        assert all(len(rows) == len(BAGS) for rows in lists.values())


@pytest.mark.parametrize("category", CATEGORIES[:3])
def test_who_only_searched_and_found_nothing_is_active_and_has_the_popular_items(shop, category):
    (history,) = [row for row in shop.rows("user_histories", date=EVE) if row["user_id"] == LOOKING]
    assert (history["category"], history["steps"], history["recent_events"]) == ("other", [], 1)
    rows = lists_of(shop, EVE, category)[LOOKING]
    assert rows and {row["source"] for row in rows} == {"popular"}


@pytest.mark.parametrize("order", ["fusion", "mixup"])
def test_lists_are_the_same_however_few_customers_are_held_at_once_and_by_whichever_process(shop, spark, order):
    from ml.log import available_items
    from ml.night.lists_on_spark import night_frame
    from ml.night.night_lists import NightTask, night_rows
    from ml.night.serving import serving_versions
    from ml.night.shelf import shelf

    settings = shop.settings
    lists = settings.recommendations.model_copy(update={"order": order})
    settings = settings.model_copy(update={"recommendations": lists})
    available = available_items(shop.warehouse, LAST, settings.recommendations.available_days)
    items = shelf(settings, shop.warehouse, LAST, "Clothing", available)
    versions = serving_versions(model_registry(settings), "Clothing")
    task = NightTask.open(settings, shop.warehouse, LAST, "Clothing", items, versions)
    together = rows_in_order(night_rows(task, shop.warehouse))
    assert len({row["source"] for row in together}) >= 3
    assert rows_in_order(night_rows(task, shop.warehouse, 7)) == together
    with night_frame(spark, task, 30) as frame:
        by_executors = frame.toArrow().sort_by([("user_id", "ascending"), ("rank", "ascending")])
    assert rows_in_order(by_executors.to_batches()) == together


def test_a_night_whose_lists_executors_make_publishes_the_same_tables(shop, tmp_path):
    settings = shop.settings.recommendations.model_dump(mode="json")
    spread = shop.copy(tmp_path / "spread").change(recommendations={**settings, "executors": "spark"})
    for category in CATEGORIES:
        spread.warehouse.remove("recommendations", date=LAST, category=category)
    flows.nightly(Runner(spread.settings), LAST)
    for category in CATEGORIES:
        made, expected = (one.warehouse.read("recommendations", date=LAST, category=category) for one in (spread, shop))
        assert rows_in_order(made.to_batches()) == expected.to_pylist()


def test_an_executor_that_cannot_make_lists_says_why_and_the_table_stays(shop, spark, tmp_path, monkeypatch):
    from ml.night.night_lists import NightTask

    settings = shop.settings.recommendations.model_dump(mode="json")
    spread = shop.copy(tmp_path / "spread").change(recommendations={**settings, "executors": "spark"})
    opened = NightTask.open

    def replaced_meanwhile(*arguments):
        task = opened(*arguments)
        lost = replace(task.generations, files=(str(tmp_path / "gone.parquet"),))
        return replace(task, generations=lost)

    monkeypatch.setattr(NightTask, "open", replaced_meanwhile)
    before = spread.published()
    with pytest.raises(RunFailedError, match=r"lists of Clothing on Spark's executors: generations .* was replaced"):
        flows.nightly(Runner(spread.settings), LAST)
    assert spread.published() == before


def rows_in_order(batches):
    """The rows of lists, whose order must be the table's; scores may differ in their last digits."""
    rows = [row for batch in batches for row in batch.to_pylist()]
    places = [(row["user_id"], row["rank"]) for row in rows]
    assert places == sorted(places), "a customer's rows stand together, in the order of customers"
    return [row | {"score": pytest.approx(row["score"], abs=1e-4)} for row in rows]


@pytest.mark.parametrize("day", [EVE, LAST])
def test_lists_say_how_and_by_which_models_they_were_made(shop, day):
    rows = [row for category in CATEGORIES for row in shop.rows("recommendations", date=day, category=category)]
    sources = Counter(row["source"] for row in rows)
    assert {"language_model", "retrieval", "popular"} <= set(sources)
    for row in rows:
        versions = (row["title_encoder_version"], row["item_embeddings_version"], row["fitted_until"])
        assert (row["model_version"] is not None) == (row["source"] in {"language_model", "carried"})
        assert all(v is None for v in versions) if row["source"] == "popular" else None not in versions
        assert row["fitted_until"] is None or row["fitted_until"] <= AS_OF
        assert not row["model_from_future"] and row["listed_on"] <= day
    written = [row for c in CATEGORIES for row in shop.rows("generations", date=day, category=c)]
    assert 0 < sum(row["generated_on"] == day for row in written) <= shop.settings.generation.max_users


def test_an_answer_that_holds_is_kept_and_takes_nobodys_place(shop):
    eve, last = (
        {(c, row["user_id"]): row for c in CATEGORIES for row in shop.rows("generations", date=day, category=c)}
        for day in (EVE, LAST)
    )
    kept = {key for key, row in last.items() if row["generated_on"] == EVE}
    assert kept and all(last[key] == eve[key] for key in kept)
    active = {(row["category"], row["user_id"]) for row in shop.rows("interactions", date=LAST)}
    assert not kept & active, "whoever did something is asked again"
    assert len(last) - len(kept) == shop.settings.generation.max_users, "and others have their turn"


def test_one_category_alone_leaves_the_others_as_they_were(shop, tmp_path):
    own = shop.copy(tmp_path / "shop")
    flows.nightly(Runner(own.settings), LAST, ["Footwear"])
    assert own.rows("realised", date=LAST) == shop.rows("realised", date=LAST)
    for category in ("Clothing", "Bags"):
        before = shop.rows("recommendations", date=LAST, category=category)
        assert own.rows("recommendations", date=LAST, category=category) == before


def test_a_ranker_that_found_answers_useless_asks_nobody(shop, tmp_path):
    own = shop.copy(tmp_path / "shop").change(
        recommendations={"ranker": {"min_examples": 3, "answered": 0}}, promotion={"enabled": False}
    )
    Runner(own.settings).run("fit", "all", flows.as_of_config("fit", AS_OF))
    flows.nightly(Runner(own.settings), LAST)
    assert own.rows("generations", date=LAST, category="Footwear") == []
    assert own.rows("generations", date=LAST, category="Clothing"), "a category with models of its own asks on"
    sources = Counter(row["source"] for row in own.rows("recommendations", date=LAST, category="Footwear"))
    assert sources["retrieval"] and not sources["language_model"]


def test_by_the_paper_a_language_model_list_begins_with_the_item_it_named(shop, tmp_path):
    joined = shop.copy(tmp_path / "mixup").change(recommendations={"order": "mixup"})
    flows.nightly(Runner(joined.settings), LAST)
    checked = 0
    for category in CATEGORIES[:3]:
        lists = lists_of(joined, LAST, category)
        for answer in joined.rows("generations", date=LAST, category=category):
            assert answer["parsed"], "a trie over the shelf cannot fail"
            assert lists[answer["user_id"]][0]["item_id"] == answer["item_id"]
            checked += 1
        made = [row for rows in lists.values() for row in rows if row["listed_on"] == LAST]
        assert made and {row["part"] for row in made} <= {"id", "title", "popular"}
    assert checked


def test_fused_lists_are_in_the_order_of_their_ranker(shop):
    for category in CATEGORIES[:3]:
        lists = lists_of(shop, LAST, category)
        fused = [rows for rows in lists.values() if rows[0]["part"] == "fusion"]
        assert {rows[0]["source"] for rows in fused} == {"language_model", "carried", "retrieval"} & {
            rows[0]["source"] for rows in lists.values()
        }
        for rows in fused:
            own = [row for row in rows if row["part"] == "fusion"]
            assert [row["score"] for row in own] == sorted((row["score"] for row in own), reverse=True)
            assert all(row["ranker_version"] for row in own)


def test_yesterdays_lists_meet_todays_purchases(shop):
    bought = {
        row["user_id"] for row in shop.rows("interactions", date=LAST)
        if row["action"] == "purchase" and row["category"] == "Clothing"
    }  # fmt: skip
    rows = {(r["category"], r["source"], r["metric"]): r for r in shop.rows("realised", date=LAST)}
    recall = rows["Clothing", "all", "recall"]
    assert recall["buyers"] == len(bought)
    assert recall["customers"] == len(bought & set(lists_of(shop, EVE, "Clothing")))
    assert 0 <= recall["low"] <= recall["value"] <= recall["high"] <= 1
    assert shop.rows("realised", date=EVE) == [], "nothing was published the day before"
    registry = model_registry(shop.settings)
    tracked = registry.client.search_runs([registry.experiment_id], "tags.kind = 'realised'")
    assert [run.data.params["date"] for run in tracked] == [LAST]
    assert tracked[0].data.metrics["Clothing/recall"] == pytest.approx(recall["value"])


def test_ours_and_the_others_are_scored_on_every_view(shop):
    for category in CATEGORIES[:2]:
        rows = shop.rows("evaluation_metrics", category=category)
        systems = {"ours", "ours_mixup", "popularity", "markov", "item_knn", "core", "sasrec", "recformer_queries"}
        views = defaultdict(set)
        for row in rows:
            views[row["split"], row["actions"], row["candidates"], row["metric"]].add(row["system"])
            assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert len(views) == 3 * 2 * 2 * 3
        for (_, actions, _, _), found in views.items():
            expected = systems - {"recformer_queries"} if actions == "purchases_only" else systems
            assert expected - {"ours_mixup"} <= found <= expected, "without a ranker, ours is the mixup"
        assert any("ours_mixup" in found for found in views.values())
        ranks = shop.rows("evaluation_ranks", category=category)
        assert {row["system"] for row in ranks} == systems
        lists = shop.rows("evaluation_lists", category=category)
        assert {row["system"] for row in lists} == systems, "people can read what each recommends"
    assert shop.rows("evaluation_metrics", category="Gifts") == []


def test_a_category_is_ranked_as_at_night_by_one_ranker_of_all_that_share_its_models(shop):
    validation = {
        category: sum(
            row["temporal_split"] == "validation" for row in shop.rows("training_sequences", category=category)
        )
        for category in ("Bags", "Footwear")
    }
    for category in validation:
        rows = shop.rows("evaluation_metrics", category=category)
        found = {row["system"] for row in rows if (row["split"], row["actions"]) == ("temporal", "all")}
        assert found >= {"ours", "ours_mixup"}
        (run,) = {row["run_id"] for row in rows if row["system"] == "ours"}
        (asked,) = model_registry(shop.settings).client.get_metric_history(run, "temporal/all/ranker_questions")
        assert asked.value > validation[category], "the others' purchases are read too"


def test_a_number_says_from_which_data_settings_seed_and_code_it_comes(shop):
    rows = shop.rows("evaluation_metrics", category="Clothing")
    settings = {row["system"]: json.loads(row["settings"]) for row in rows}
    assert settings["ours"]["adapter"] and "adapter" not in settings["markov"]
    assert settings["sasrec"]["system"]["epochs"] == 1 and settings["core"]["item_embeddings"]["dim"] == 16
    assert settings["markov"]["intervals"]["resamples"] == 50
    assert len({(row["data"], row["seed"], row["code_version"]) for row in rows}) == 1
    assert rows[0]["data"].startswith(f"{AS_OF} ") and rows[0]["code_version"].startswith("0.1.0 ")


def test_a_mixup_list_holds_its_target_where_its_rank_says(shop):
    for category in CATEGORIES[:2]:
        ranks = {
            (row["example_id"], row["split"], row["actions"]): row["rank"]
            for row in shop.rows("evaluation_ranks", category=category)
            if (row["system"], row["candidates"]) == ("ours_mixup", "catalogue")
        }
        targets = {row["example_id"]: row["target_item"] for row in shop.rows("training_sequences", category=category)}
        for row in shop.rows("evaluation_lists", category=category):
            if row["system"] == "ours_mixup" and row["item_id"] == targets[row["example_id"]]:
                assert row["rank"] <= ranks[row["example_id"], row["split"], row["actions"]], "ties count against it"


def test_broken_rows_are_kept_with_their_reason_and_nowhere_else(shop):
    refused = {row["event_id"]: row["reason"] for row in shop.rows("rejected_interactions", date=EVE)}
    assert refused[f"bad-action-{EVE}"] == "unknown action"
    assert refused[f"bad-item-{EVE}"] == "item not in the catalogue"
    assert not set(refused) & {row["event_id"] for row in shop.rows("interactions", date=EVE)} - duplicates(refused)


def duplicates(refused):
    """Ids whose first row was sound: only the repetition was refused."""
    return {event_id for event_id, reason in refused.items() if reason == "duplicate"}


def test_odd_titles_are_shown_as_plain_short_text(shop):
    titles = {row["item_id"]: row["title"] for row in shop.rows("catalog")}
    assert titles["odd-null"] == "untitled odd-null"
    assert len(titles["odd-megabyte"]) <= 500
    assert not set(titles["odd-markers"]) & set("\x00\n\u202e\u202c")
    assert titles[BAGS[0]] == "Leather bag, second row of its item"


def test_no_title_becomes_control_in_a_prompt(shop):
    from ml.language_model import load_tokenizer

    tokenizer = load_tokenizer(shop.folder / "tiny-llama")
    title = next(row["title"] for row in shop.rows("catalog") if row["item_id"] == "odd-markers")
    prompts = shop.rows("prompts", category="Clothing")
    assert any(title[:40] in row["text"] for row in prompts), "the odd item is in some prompt"
    for token in tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<tool_call>", "<|endoftext|>"]):
        assert len({row["input_ids"].count(token) for row in prompts}) == 1
        assert len({row["response_ids"].count(token) for row in prompts}) == 1


def test_an_item_of_the_last_day_is_in_nothing_made_before_it(shop):
    assert PLANTED in items_with_events(shop, LAST) and PLANTED in {r["item_id"] for r in shop.rows("catalog")}
    for category in CATEGORIES:
        assert PLANTED not in {r["item_id"] for r in shop.rows("recommendations", date=EVE, category=category)}
        assert PLANTED not in {r["item_id"] for r in shop.rows("generations", date=EVE, category=category)}
    for row in shop.rows("user_histories", date=EVE):
        assert PLANTED not in {step["item_id"] for step in row["steps"]}
    for category in ("Clothing", "all"):
        assert all("zebra" not in row["text"].lower() for row in shop.rows("prompts", category=category))
    for category in CATEGORIES:
        assert all(
            row["target_date"].isoformat() <= AS_OF for row in shop.rows("training_sequences", category=category)
        )
    memory = {row["query"]: row for row in shop.rows("query_memory")}
    assert memory[PLANTED_QUERY]["items"] == [PLANTED], "the newest memory does know it"


def test_the_memory_of_an_earlier_day_does_not_know_the_planted_query(shop):
    from ml.memory import memory_as_of

    vectors = shop.warehouse.read("query_vectors")
    for day, knows in ((EVE, False), (LAST, True)):
        found = memory_as_of(shop.warehouse, vectors, shop.settings.memory, day).lookup("Clothing", [PLANTED_QUERY])
        assert (PLANTED in found[0]) is knows


def test_later_events_change_no_training_sequence(shop, spark):
    from ml.sequences import training_sequences

    events = shop.warehouse.frame(spark, "interactions")
    assert LAST in {row["date"] for row in events.select("date").distinct().collect()}
    made = training_sequences(events, shop.settings.sequences, AS_OF, shop.settings.log.time_zone)
    found = {row["example_id"]: len(row["steps"]) for row in made.select("example_id", "steps").collect()}
    published = [row for category in CATEGORIES for row in shop.rows("training_sequences", category=category)]
    assert found == {row["example_id"]: len(row["steps"]) for row in published}


def test_a_night_run_again_publishes_nothing_even_after_later_days_came(shop, tmp_path):
    again = shop.copy(tmp_path / "again")
    before = again.published()
    flows.nightly(Runner(again.settings), EVE)
    assert again.published() == before


def test_a_late_event_republishes_its_own_day_alone(shop, tmp_path):
    changed = shop.copy(tmp_path / "changed")
    before = changed.published("interactions", "query_daily")
    late = event("late-one", EVE, minute=7, item_id=BAGS[1])
    assert late["event_time"] < datetime.fromisoformat(LAST).replace(tzinfo=UTC)
    write_events(changed, LAST, [late], "late.parquet")
    Runner(changed.settings).run("ingest", days=(EVE, LAST))
    after = changed.published("interactions", "query_daily")
    touched = {name for name in set(before) | set(after) if before.get(name) != after.get(name)}
    assert touched and all(name.startswith(f"interactions/date={EVE}/") for name in touched)
    assert "late-one" in {row["event_id"] for row in changed.rows("interactions", date=EVE)}
