"""The report: every system, view and figure on one page that needs nothing else, and text that stays text."""

import re
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from ml.errors import BadInputError
from ml.evaluation import breakdown_rows, difference_rows, evaluation_rows, rank_rows
from ml.report import write_report
from ml.report.figures import METRICS
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

EVIL = "<script>alert('x')</script> & {{ 7 * 7 }}"
DAY = "2026-01-02"
MADE = {"data": "2026-01-02 x", "settings": "{}", "seed": 0, "code_version": "1", "run_id": "run"}
RANKS = {"ours": [1, 2, 3, 1], "ours_mixup": [2, 4, 9, 30], "sasrec": [5, 20, 30, 40], "new_system": [1, 1, None, 50]}


def rows(table, *values):
    return pa.Table.from_pylist(list(values), schema=TABLES[table].schema)


@pytest.fixture
def settings(tmp_path):
    return Settings(warehouse=tmp_path / "warehouse", home=tmp_path, categories=["Hats & $caps", "Nothing"])


@pytest.fixture
def evaluated(settings):
    warehouse, category = Warehouse(settings.warehouse), settings.categories[0]
    views = [("temporal", "all"), ("leave_one_out", "purchases_only")]
    ids = [f"e{i}" for i in range(4)]
    ranks = pa.concat_tables(
        rank_rows(system, *view, candidates, ids, own)
        for system, own in RANKS.items() for view in views for candidates in ("catalogue", "available")
    )  # fmt: skip
    metrics = [
        evaluation_rows(system, *view, "catalogue", own, MADE, settings.evaluation)
        for system, own in RANKS.items() for view in views
    ]  # fmt: skip
    groups = {("history", "3 to 5 steps"): {"e0", "e1"}, ("history", "21 steps and more"): {"e2", "e3"}}
    shown = [{"system": system, "split": split, "actions": actions} for system in RANKS for split, actions in views]
    cost = {"fit_seconds": 2.0, "rank_seconds": 1.0, "examples_per_second": 4, "peak_memory_mib": 1500, "examples": 4}
    lists = [{**s, "example_id": "e0", "rank": r, "item_id": i} for s in shown for r, i in [(2, "b"), (1, "evil")]]
    time = datetime(2026, 1, 2, tzinfo=UTC)
    steps = [
        {"event_time": time - timedelta(hours=2), "event_id": "1", "action": "search", "query": f"query {EVIL}"},
        {"event_time": time - timedelta(hours=1), "event_id": "2", "action": "click", "item_id": "b"},
    ]
    example = {
        "example_id": "e0", "user_id": "secret-customer", "target_item": "evil", "target_time": time,
        "target_date": date(2026, 1, 2), "steps": steps, "item_steps": 1, "eligible": True,
        "temporal_split": "test", "leave_one_out_split": "test",
    }  # fmt: skip
    item = {"category": category, "attributes": []}
    tables = {
        "evaluation_metrics": pa.concat_tables(metrics),
        "evaluation_differences": difference_rows(ranks, settings.evaluation),
        "evaluation_breakdowns": breakdown_rows(ranks, groups, settings.evaluation),
        "evaluation_costs": rows("evaluation_costs", *({**s, **cost} for s in shown)),
        "evaluation_lists": rows("evaluation_lists", *lists),
        "training_sequences": rows("training_sequences", example),
    }
    for name, table in tables.items():
        warehouse.publish(name, table, category=category)
    warehouse.publish("evaluation_metrics", TABLES["evaluation_metrics"].schema.empty_table(), category="Nothing")
    items = [{**item, "item_id": "evil", "title": EVIL}, {**item, "item_id": "b", "title": "Blue hat"}]
    warehouse.publish("catalog", rows("catalog", *items))
    event = {"event_id": "1", "user_id": "u", "event_time": time, "action": "click", "item_id": "b"}
    warehouse.publish("interactions", rows("interactions", event), date=DAY)
    return warehouse


def test_the_page_holds_every_view_and_needs_nothing_else(settings, evaluated, tmp_path):
    page = write_report(settings, evaluated, tmp_path / "out" / "report")
    text = page.read_text()
    for view in ("temporal split, whole log", "leave-one-out, purchases only"):
        assert f"Hats &amp; $caps: {view}" in text
    for system in ("ours (fusion)", "ours (the paper&#39;s mixup)", "SASRec", "new_system"):
        assert text.count(f"<td>{system}</td>") == 2, system
    for system, views in {"gru4rec": 2, "recformer": 2, "recformer_queries": 1, "sasrec": 0}.items():
        assert text.count(f"more_systems: [{system}]") == views, "a system that was not run says how to run it"
    assert "Nothing: " not in text, "a category without examples has no section"
    assert 'hemline experiments "zero_shot_Nothing"' in text, "what is missing says how to make it"
    assert not re.search(r'(src|href)="(?!data:image/png;base64,|#)', text), "no other file, no other host"
    pictures = sorted(path.name for path in page.parent.glob("*.png"))
    assert pictures == sorted(
        f"hats_caps-{view}-{name}.png"
        for view in ("temporal-all", "leave_one_out-purchases_only")
        for name in ("systems", "lead", "history", "cost")
    )
    assert text.count("data:image/png;base64,") == len(pictures)
    assert {path.name for path in page.parent.iterdir()} == {"index.html", *pictures}, "nothing half-written is left"


def test_text_of_the_log_stays_text_and_nobody_is_named(settings, evaluated, tmp_path):
    text = write_report(settings, evaluated, tmp_path).read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "{{ 7 * 7 }}" in text, "a title is no template"
    assert "secret-customer" not in text and "e0" not in re.sub(r"base64,[^\"]*", "", text)


def test_a_hit_is_marked_and_lists_are_in_order(settings, evaluated, tmp_path):
    text = write_report(settings, evaluated, tmp_path).read_text()
    assert text.count('<li class="hit">&lt;script&gt;') == 2 * len(RANKS)
    assert text.count("<li>Blue hat</li>") == 2 * len(RANKS)
    assert text.index('<li class="hit">') < text.index("<li>Blue hat</li>")


def test_a_lead_is_claimed_only_where_its_interval_is_above_zero(settings, evaluated, tmp_path):
    text = write_report(settings, evaluated, tmp_path).read_text()
    claim = re.search(r"4 purchases\. (.*)</p>", text).group(1)
    assert claim.startswith("In Recall@10 ours leads") or "no claim" in claim
    lead = next(
        r for r in evaluated.read("evaluation_differences", category=settings.categories[0]).to_pylist()
        if (r["system"], r["metric"], r["split"], r["candidates"]) == ("new_system", "mrr", "temporal", "catalogue")
    )  # fmt: skip
    assert ("in MRR ours leads new_system" in claim) == (lead["low"] > 0)


def test_experiments_that_ran_have_their_rows_and_the_papers_figures(settings, evaluated, tmp_path):
    settings = settings.model_copy(update={"categories": [*settings.categories, "Bags $a$"]})
    common = {"question": "?", "k": 10, "low": 0.1, "high": 0.3, "examples": 4, "changes": "{}"}
    common |= {"made_from": "x", **MADE}
    for name, kind, systems in [
        ("base", "ablation", ("ours_mixup",)),
        ("low_resource_1", "low_resource", ("ours_mixup", "recformer_queries")),
        ("low_resource_0.5", "low_resource", ("ours_mixup", "recformer_queries")),
        ("zero_shot_Bags $a$", "zero_shot", ("ours_mixup", "recformer_queries")),
    ]:
        own = {**common, "kind": kind}
        metrics = [
            {**own, "system": system, "metric": metric, "value": 0.2} for system in systems for metric in METRICS
        ]
        evaluated.publish("experiment_metrics", rows("experiment_metrics", *metrics), experiment=name)
    text = write_report(settings, evaluated, tmp_path).read_text()
    assert {"experiments-zero_shot.png", "experiments-low_resource.png"} <= {p.name for p in tmp_path.glob("*.png")}
    assert "figure 5" in text and "figure 6" in text
    assert text.count("<td>Recformer with queries</td>") == 3 + 1, "of the experiments, and the view it was not run in"
    assert 'hemline experiments "low_resource_0.25"' in text and 'hemline experiments "low_resource_0.5"' not in text


def test_before_any_evaluation_the_report_says_what_to_run(settings, tmp_path):
    with pytest.raises(BadInputError, match="nothing has been evaluated yet: run `hemline evaluate`"):
        write_report(settings, Warehouse(settings.warehouse), tmp_path)
