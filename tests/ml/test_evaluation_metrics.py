"""Metrics, intervals and tables of ranks, by hand-computed numbers and by what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import BadInputError
from ml.evaluation import (
    compare,
    evaluate_ranks,
    evaluation_rows,
    interval,
    metrics_figure,
    ndcg_at_k,
    paired_interval,
    rank_rows,
    recall_at_k,
    reciprocal_rank,
)
from ml.settings import EvaluationSettings
from ml.tables import TABLES

SETTINGS = EvaluationSettings(k=10, resamples=300)
RANKS = st.lists(st.one_of(st.none(), st.integers(1, 100_000)), max_size=40)


def test_metrics_of_known_ranks():
    ranks = [1, 3, 10, 11, None, math.nan]
    assert recall_at_k(ranks, 10).tolist() == [1, 1, 1, 0, 0, 0]
    assert ndcg_at_k(ranks, 10).tolist() == pytest.approx([1, 0.5, 1 / math.log2(11), 0, 0, 0])
    assert reciprocal_rank(ranks).tolist() == pytest.approx([1, 1 / 3, 0.1, 1 / 11, 0, 0])


@pytest.mark.parametrize("wrong", [[0], [-1], [1.5], [-math.inf]])
def test_a_rank_that_is_none_is_refused(wrong):
    with pytest.raises(BadInputError, match="rank"):
        recall_at_k(wrong, 10)


@given(RANKS, st.integers(1, 50))
def test_metrics_stay_between_0_and_1_and_a_better_rank_never_hurts(ranks, k):
    for metric in (recall_at_k(ranks, k), ndcg_at_k(ranks, k), reciprocal_rank(ranks)):
        assert ((metric >= 0) & (metric <= 1)).all()
    better = [None if rank is None else max(1, rank - 1) for rank in ranks]
    assert (ndcg_at_k(better, k) >= ndcg_at_k(ranks, k)).all()
    assert (reciprocal_rank(better) >= reciprocal_rank(ranks)).all()
    assert (ndcg_at_k(ranks, k) <= recall_at_k(ranks, k)).all()


@given(RANKS, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_examples_changes_no_mean(ranks, random):
    shuffled = list(ranks)
    random.shuffle(shuffled)
    for a, b in zip(evaluate_ranks(ranks, SETTINGS), evaluate_ranks(shuffled, SETTINGS), strict=True):
        assert a["examples"] == b["examples"]
        assert a["value"] == pytest.approx(b["value"], nan_ok=True)


def test_interval_of_few_or_equal_values():
    assert np.isnan(interval([], SETTINGS)).all()
    value, low, high = interval([0.25], SETTINGS)
    assert value == 0.25 and math.isnan(low) and math.isnan(high)
    assert interval([0.0] * 30, SETTINGS) == (0, 0, 0)
    assert interval([1, 1], SETTINGS) == (1, 1, 1)
    for wrong in ([1.0, math.nan], [[1.0, 2.0]]):
        with pytest.raises(BadInputError):
            interval(wrong, SETTINGS)


def test_interval_is_seeded_and_close_to_the_normal_one():
    values = np.random.default_rng(0).random(2000) < 0.2
    value, low, high = interval(values, EvaluationSettings(resamples=2000))
    assert (value, low, high) == interval(values, EvaluationSettings(resamples=2000))
    assert (value, low, high) != interval(values, EvaluationSettings(resamples=2000, seed=1))
    error = 1.96 * math.sqrt(value * (1 - value) / 2000)
    assert low == pytest.approx(value - error, abs=0.004)
    assert high == pytest.approx(value + error, abs=0.004)


def test_interval_narrows_with_confidence():
    values = np.random.default_rng(0).random(200)
    _, low, high = interval(values, EvaluationSettings(resamples=500, confidence=0.99))
    _, inner_low, inner_high = interval(values, EvaluationSettings(resamples=500, confidence=0.5))
    assert low < inner_low < values.mean() < inner_high < high


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
@settings(max_examples=40, deadline=None)
def test_interval_lies_within_the_values(values):
    value, low, high = interval(values, SETTINGS)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    assert low - 1e-9 <= value <= high + 1e-9 or len(set(values)) > 1


def test_paired_interval_sees_a_steady_lead_that_two_intervals_hide():
    base = np.random.default_rng(1).random(300)
    ours = base + 0.01 + 0.001 * np.random.default_rng(2).random(300)
    mean, low, high = paired_interval(ours, base, SETTINGS)
    assert 0.01 < low < mean < high < 0.011
    assert interval(ours, SETTINGS)[1] < interval(base, SETTINGS)[2]
    with pytest.raises(BadInputError, match="same examples"):
        paired_interval([1, 2], [1], SETTINGS)


def test_compare_gives_the_lead_per_metric():
    lead = compare([1, 1, 20], [2, 20, 1], SETTINGS)
    assert lead["recall"][0] == 0
    assert lead["mrr"][0] == pytest.approx((0.5 + 0.95 - 0.95) / 3)


def test_rows_have_the_tables_schema():
    made = {"data": "d", "settings": "{}", "seed": 0, "code_version": "v", "run_id": "run"}
    rows = evaluation_rows("ours", "temporal", "all", "catalogue", [1, 20, None], made, SETTINGS)
    assert rows.schema.equals(TABLES["evaluation_metrics"].schema)
    by_metric = {row["metric"]: row for row in rows.to_pylist()}
    assert by_metric["recall"]["value"] == pytest.approx(1 / 3)
    assert by_metric["mrr"]["value"] == pytest.approx(1.05 / 3)
    assert by_metric["ndcg"]["examples"] == 3 and by_metric["ndcg"]["run_id"] == "run"
    ranks = rank_rows("ours", "temporal", "all", "catalogue", ["a", "b", "c"], [1, math.nan, 7.0])
    assert ranks.schema.equals(TABLES["evaluation_ranks"].schema)
    assert ranks["rank"].to_pylist() == [1, None, 7]
    with pytest.raises(BadInputError, match="2 ranks for 1 examples"):
        rank_rows("ours", "temporal", "all", "catalogue", ["a"], [1, 2])


def test_figure_shows_every_system_and_slice(tmp_path):
    import pyarrow as pa

    parts = [
        evaluation_rows(system, "temporal", "all", candidates, ranks, {}, SETTINGS)
        for system, ranks in (("markov", [2, 30, 4]), ("ours", [1, 3, 40]))
        for candidates in ("catalogue", "available")
    ]
    figure = metrics_figure(pa.concat_tables(parts), "Clothing")
    assert [axis.get_title() for axis in figure.axes] == ["Recall@10", "NDCG@10", "MRR"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "markov"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["temporal, all, available", "temporal, all, catalogue"]
    values = sorted(line.get_xdata()[0] for line in figure.axes[2].lines if line.get_marker() == "o")
    assert values == pytest.approx(sorted([(1 / 2 + 1 / 30 + 1 / 4) / 3, (1 + 1 / 3 + 1 / 40) / 3] * 2))
    figure.savefig(tmp_path / "metrics.png")
    assert (tmp_path / "metrics.png").stat().st_size > 5000
    metrics_figure(TABLES["evaluation_metrics"].schema.empty_table())
