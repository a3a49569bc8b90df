"""The promotion rule: who replaces whom, from scores alone, and the reason that is given."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.errors import BadInputError
from ml.models.promotion import decide
from ml.settings import EvaluationSettings, PromotionSettings

EVALUATION = EvaluationSettings(resamples=300)


def decided(challenger, champion, margin=0.02, **settings):
    return decide(
        challenger, champion, metric="NDCG@10", margin=margin,
        promotion=PromotionSettings(**settings), evaluation=EVALUATION,
    )  # fmt: skip


def scores(mean, size=400, seed=0):
    return np.clip(np.random.default_rng(seed).normal(mean, 0.1, size), 0, 1)


def test_the_first_model_is_promoted_because_there_is_no_champion():
    decision = decided(scores(0.5), None)
    assert decision.promoted and decision.reason == "no champion"
    assert decision.numbers() == {"promotion_challenger": pytest.approx(0.5, abs=0.02), "promotion_examples": 400}


@pytest.mark.parametrize(("lead", "promoted"), [(0.05, True), (0.0, True), (-0.005, True), (-0.05, False)])
def test_a_challenger_is_refused_where_it_may_be_worse_by_more_than_the_margin(lead, promoted):
    champion = scores(0.5)
    decision = decided(champion + lead + scores(0.0, seed=1) * 0.1, champion)
    assert decision.promoted is promoted
    assert decision.low < decision.difference < decision.high
    assert (decision.low >= -decision.margin) is promoted
    for shown in ("NDCG@10", f"{decision.low:+.4f}", f"{decision.difference:+.4f}", "-0.02", "400 validation examples"):
        assert shown in decision.reason


def test_a_mean_within_the_margin_is_not_enough_where_the_interval_is_wide():
    champion = scores(0.5, 60)
    challenger = champion - 0.01 + np.random.default_rng(2).normal(0, 0.3, 60)
    challenger -= (challenger - champion).mean() + 0.01
    assert decided(challenger, champion).verdict == "refused"
    few = decided(challenger[:19], challenger[:19] + 0.01)
    assert few.promoted and few.low is None and "too few for an interval" in few.reason
    assert decided(challenger[:19], challenger[:19] + 0.03).verdict == "refused"


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_refuses_the_challenger_and_replaces_the_champion(broken):
    bad = np.append(scores(0.9), broken)
    refused = decided(bad, scores(0.1, 401))
    assert refused.verdict == "refused" and refused.guardrail == "its scores are finite"
    assert decided(bad, None).guardrail == "its scores are finite", "nor may it be the first"
    assert decided(scores(0.1, 401), bad).promoted


def test_scores_of_other_examples_are_no_comparison():
    with pytest.raises(BadInputError, match="same examples"):
        decided(scores(0.5, 10), scores(0.5, 11))


def test_without_a_validation_example_the_reason_says_so():
    decision = decided([], [])
    assert decision.promoted and "no validation example" in decision.reason


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 0.5))
def test_a_model_is_never_refused_against_itself(values, margin):
    assert decided(values, values, margin).promoted


@given(st.lists(st.floats(0, 1), min_size=20, max_size=40), st.floats(0, 0.5), st.floats(0.001, 0.5))
def test_a_larger_loss_on_every_example_than_the_margin_is_always_refused(values, margin, more):
    champion = np.array(values)
    assert decided(champion - margin - more, champion, margin).verdict == "refused"
