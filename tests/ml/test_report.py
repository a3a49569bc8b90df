"""The report: every system, view and figure on one page that needs nothing else, and text that stays text."""

import re
from datetime import UTC, date, datetime, timedelta
from html import unescape

import pyarrow as pa
import pytest

from ml.errors import BadInputError
from ml.evaluation import breakdown_rows, difference_rows, evaluation_rows, rank_rows
from ml.report import write_report
from ml.report.category import as_named, claim
from ml.report.figures import METRICS
from ml.report.orders import side_by_side
from ml.settings import EvaluationSettings, Settings
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
        "target_date": date(2026, 1, 2), "steps": steps, "night_clicks": [], "item_steps": 1, "eligible": True,
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
        assert text.count(f"<td>{system}</td>") == 2 + 2 + 1, "the views, the main tables, side by side"
    assert "Nothing: " not in text, "a category without examples has no section"
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


def test_what_has_no_number_has_a_row_with_the_command_that_makes_it(settings, evaluated, tmp_path):
    text = unescape(write_report(settings, evaluated, tmp_path).read_text())
    assert "hemline experiments zero_shot_Nothing" in text
    assert "hemline evaluate --category Nothing --report" in text, "a category that was not evaluated"
    command = "hemline evaluate --category 'Hats & $caps' --report"
    assert f"HEMLINE_EVALUATION__MORE_SYSTEMS='[gru4rec, sasrec]' {command}" in text, "what is there stays"
    assert text.count("'[sasrec, recformer]'") == 2 and text.count("'[sasrec, recformer_queries]'") == 1
    assert text.count("the same as Recformer here: purchases alone hold no search") == 1
    assert text.count(f"<code>{command}</code>") == 4, "the views that the settings have, and nobody finished"


@pytest.mark.parametrize(
    ("examples", "low", "words"),
    [
        (250, 0.01, "In Recall@10 ours leads SASRec, the strongest other, by 0.100 [0.010, 0.200] (ours +50%)."),
        (250, -0.01, "In Recall@10 no claim against SASRec, the strongest other: the difference"),
        (249, 0.01, "No claim: fewer than 250 purchases. What these gave: in Recall@10 ours leads SASRec"),
    ],
)
def test_a_lead_is_claimed_of_enough_purchases_and_an_interval_above_zero(examples, low, words):
    metrics = [
        {"system": system, "metric": "recall", "k": 10, "value": value, "examples": examples}
        for system, value in {"ours": 0.3, "ours_mixup": 0.9, "sasrec": 0.2, "markov": 0.1}.items()
    ]
    lead = {"system": "sasrec", "metric": "recall", "k": 10, "value": 0.1, "low": low, "high": 0.2, "ratio": 0.5}
    assert claim(metrics, [lead]).startswith(words)
    beaten = {**lead, "value": -0.1, "low": -0.2, "high": -0.05, "ratio": -0.3}
    assert "SASRec leads ours by 0.100 [0.050, 0.200] (ours -30%)" in claim(metrics, [beaten])


def test_ours_is_called_the_mixup_where_no_ranker_could_be_fitted():
    views = [("ours", "temporal"), ("ours_mixup", "temporal"), ("ours", "nightly"), ("core", "nightly")]
    found = [{"system": system, "split": split, "actions": "all"} for system, split in views]
    named = [(row["system"], row["split"]) for row in as_named(Settings(), found)]
    assert named == [*views[:2], ("ours_mixup", "nightly"), views[3]]
    alone = Settings(evaluation=EvaluationSettings(mixup=False))
    assert as_named(alone, found) == found, "fusion alone was asked for"


def test_systems_stand_side_by_side_and_a_changed_order_is_named():
    def row(system, split, value, actions="all"):
        return {"system": system, "split": split, "actions": actions, "metric": "ndcg", "k": 10, "value": value}

    temporal = [row("ours", "temporal", 0.3), row("sasrec", "temporal", 0.2), row("markov", "temporal", 0.1)]
    night = [row("ours", "nightly", 0.2), row("sasrec", "nightly", 0.1), row("markov", "nightly", 0.15)]
    last = [row(r["system"], "leave_one_out", r["value"]) for r in temporal]
    published = {"metric": "ndcg", "value": 0.12, "low": 0.1, "high": 0.14, "customers": 9, "buyers": 20}
    shown = side_by_side([*last, *temporal, *night], [published])
    assert shown["heads"] == ["temporal split, whole log", "the night before, whole log", "leave-one-out, whole log"]
    places = {s["name"]: [cell["place"] for cell in s["cells"]] for s in shown["systems"]}
    assert places == {"ours": [1, 1, 1], "SASRec": [2, 3, 2], "Markov": [3, 2, 3]}
    assert [s["published"] for s in shown["systems"]] == [published, None, None], "only ours is published"
    changed, same = shown["sentences"]
    assert changed.endswith("the order changes, 1 of 3 pairs of systems turn round (SASRec and Markov).")
    assert same.endswith("leave-one-out beside temporal split: the order of the 3 systems does not change.")
    assert side_by_side(temporal, []) is None, "nothing to compare with"


def test_a_published_night_stands_beside_the_splits(settings, evaluated, tmp_path):
    common = {"category": settings.categories[0], "source": "all", "low": 0.1, "high": 0.3, "buyers": 4321}
    nights = [{**common, "metric": metric, "value": 0.217, "customers": 1234} for metric in METRICS]
    evaluated.publish("realised", rows("realised", *nights), date=DAY)
    text = write_report(settings, evaluated, tmp_path).read_text()
    assert f"<th>published for {DAY}</th>" in text and "1,234 of 4,321" in text
    assert text.count("0.217") == 1 + len(METRICS)


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
    assert text.count('<td class="text">Recformer with queries</td>') == 3
    assert "hemline experiments low_resource_0.25" in text and "hemline experiments low_resource_0.5" not in text


def test_before_any_evaluation_the_report_says_what_to_run(settings, tmp_path):
    with pytest.raises(BadInputError, match="nothing has been evaluated yet: run `hemline evaluate`"):
        write_report(settings, Warehouse(settings.warehouse), tmp_path)
