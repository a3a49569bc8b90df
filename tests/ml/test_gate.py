"""The promotion gate on a real MLflow store: what never serves, what is kept of a decision, and a store that fails."""

import shutil

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from model_registries import TAGS, failing, load_numbers, new_registry, register, save_numbers

from ml.errors import HemlineError
from ml.fits.gate import Trial, consider
from ml.models.champions import rollback
from ml.settings import Settings

SETTINGS = Settings()
KIND, SCOPE = "item_embeddings", "Clothing"
GOOD = np.random.default_rng(0).uniform(0.3, 0.7, 100)
BETTER, WORSE = GOOD + 0.1, GOOD - 0.1
TRIAL = Trial("NDCG@10", 0.02, load_numbers, lambda numbers: numbers)


@pytest.fixture
def registry(tmp_path):
    return new_registry(tmp_path)


@pytest.fixture
def challenge(registry, tmp_path):
    """Fit a model of these scores, let the gate decide, and return the decision and the version."""

    def attempt(numbers, trial=TRIAL, settings=SETTINGS, spoil=None, **tags):
        with registry.run(KIND, SCOPE, tags=TAGS, params={}) as run:
            version = run.register(save_numbers(tmp_path / "fitted", numbers), **tags)
            if spoil:
                spoil(version.folder)
            return consider(registry, run, version, trial, settings), version

    return attempt


def newest(registry):
    """The newest version as MLflow has it, and its run."""
    version = registry.versions(KIND, SCOPE)[0]
    return version, registry.client.get_run(version.run_id)


def test_the_first_version_is_promoted_a_better_one_too_and_a_worse_one_never(registry, challenge):
    first, _ = challenge(GOOD)
    assert first.reason == "no champion" and registry.used_version(KIND, SCOPE) == "1"
    better, _ = challenge(BETTER)
    assert better.promoted and registry.used_version(KIND, SCOPE) == "2"
    worse, version = challenge(WORSE)
    assert worse.verdict == "refused" and worse.guardrail is None
    assert registry.used_version(KIND, SCOPE) == "2" and version.version == "3"
    found, run = newest(registry)
    assert found.tags["promotion"] == run.data.tags["promotion"] == "refused"
    assert found.tags["promotion_reason"] == run.data.tags["promotion_reason"] == worse.reason
    assert run.data.metrics["promotion_difference"] == pytest.approx(-0.2)
    assert run.data.metrics["promotion_low"] <= -0.2 + 1e-9 and run.data.metrics["promotion_margin"] == 0.02
    assert run.info.status == "FINISHED", "a worse model is no failure of the run"


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("numbers", "spoil", "guardrail"),
    [
        (BETTER, truncate, "its files are whole"),
        (BETTER, lambda folder: (folder / "config.json").unlink(), "its files are whole"),
        (np.append(BETTER, np.nan), None, "its weights are whole and finite"),
        ([], None, "its files load and can be scored"),
    ],
)
def test_what_is_broken_fails_its_run_and_never_serves_and_the_guardrail_is_named(
    registry, challenge, numbers, spoil, guardrail
):
    for used in (None, "2"):  # neither as the first nor over a champion
        if used:
            challenge(GOOD)
        with pytest.raises(HemlineError, match=guardrail) as error:
            challenge(numbers, spoil=spoil)
        assert (f"Version {used} stays in use" if used else "No version is in use yet") in str(error.value)
        assert registry.used_version(KIND, SCOPE) == used
        found, run = newest(registry)
        assert run.info.status == "FAILED" and guardrail in found.tags["promotion_reason"]


def test_scores_that_are_not_finite_are_refused_even_where_the_weights_are(registry, challenge):
    challenge(GOOD)
    divided = Trial("NDCG@10", 0.02, load_numbers, lambda numbers: numbers / np.where(numbers > 0.75, 0.0, 1.0))
    with np.errstate(divide="ignore"), pytest.raises(HemlineError, match="its scores are finite"):
        challenge(BETTER, divided)
    assert registry.used_version(KIND, SCOPE) == "1"


def test_a_champion_whose_files_are_gone_or_broken_is_replaced_and_the_reason_says_so(registry, challenge):
    _, first = challenge(GOOD)
    truncate(first.folder)
    over_broken, second = challenge(WORSE)
    assert over_broken.promoted and "version 1 can serve no more" in over_broken.reason
    shutil.rmtree(second.folder)
    over_gone, _ = challenge(WORSE - 0.1)
    assert over_gone.promoted and "files cannot be had" in over_gone.reason
    assert registry.used_version(KIND, SCOPE) == "3"


def test_an_error_while_the_champion_is_scored_promotes_nothing(registry, challenge):
    challenge(GOOD)

    def score(numbers):
        if numbers[0] == GOOD[0]:
            raise MemoryError
        return numbers

    with pytest.raises(MemoryError):
        challenge(BETTER, Trial("NDCG@10", 0.02, load_numbers, score))
    assert registry.used_version(KIND, SCOPE) == "1" and newest(registry)[1].info.status == "FAILED"


def test_a_champion_of_another_kind_is_not_compared_and_a_few_scores_are_enough(registry, challenge):
    challenge(GOOD)
    other = Trial(
        "NDCG@10", 0.02, load_numbers, lambda numbers: pytest.fail("all scored"), lambda numbers: numbers[:2],
        incomparable=lambda champion: "it adapts another base model (a, now b)",
    )  # fmt: skip
    decision, _ = challenge(WORSE, other)
    assert decision.promoted and "not compared with version 1: it adapts another base model" in decision.reason


def test_with_the_comparison_off_only_guardrails_hold(registry, challenge):
    challenge(GOOD)
    off = SETTINGS.model_copy(update={"promotion": SETTINGS.promotion.model_copy(update={"enabled": False})})
    decision, _ = challenge(WORSE, settings=off)
    assert decision.promoted and "promotion.enabled" in decision.reason
    with pytest.raises(HemlineError, match="its weights are whole and finite"):
        challenge(np.append(GOOD, np.inf), settings=off)


def test_a_version_that_came_into_use_during_the_comparison_is_not_overrun(registry, challenge, tmp_path):
    challenge(GOOD)
    other = register(registry, tmp_path / "other", WORSE)

    def score(numbers):
        registry.promote(other)
        return numbers

    with pytest.raises(HemlineError, match="judged beside version 1, and version 2 came into use meanwhile"):
        challenge(BETTER, Trial("NDCG@10", 0.02, load_numbers, score))
    assert registry.used_version(KIND, SCOPE) == "2"


def test_the_same_model_again_changes_nothing(registry, challenge):
    challenge(GOOD)
    again, version = challenge(GOOD)
    assert again.verdict == "unchanged" and version.version == "2"
    assert registry.used_version(KIND, SCOPE) == "1"


def test_a_model_that_was_rolled_back_does_not_come_back_by_being_fitted_again(registry, challenge):
    challenge(GOOD)
    challenge(BETTER)
    rollback(registry, KIND, SCOPE)
    again, _ = challenge(BETTER)
    assert again.verdict == "refused" and "version 2, which was rolled back" in again.reason
    assert registry.used_version(KIND, SCOPE) == "1"
    assert challenge(BETTER + 0.01)[0].promoted, "another model may follow"


def test_a_champion_fitted_on_later_days_is_said_to_have_seen_the_examples(challenge):
    challenge(GOOD, fitted_until="2026-12-01")
    assert "may have seen these examples" in challenge(BETTER, fitted_until="2026-11-18")[0].reason
    assert "seen" not in challenge(BETTER + 0.1, fitted_until="2026-12-08")[0].reason


@pytest.mark.parametrize(
    ("table", "when"),
    [
        ("registered_model_aliases", "1"),
        ("model_version_tags", "NEW.key = 'promoted_over'"),
        ("model_version_tags", "NEW.key = 'promotion'"),
        ("tags", "NEW.key = 'promotion_reason'"),
        ("model_versions", "1"),
    ],
)
def test_mlflow_failing_anywhere_in_a_promotion_leaves_the_champion_and_a_rerun_promotes(
    registry, challenge, table, when
):
    challenge(GOOD)
    with failing(registry, table, when), pytest.raises(MlflowException):
        challenge(BETTER)
    assert registry.used_version(KIND, SCOPE) == "1"
    np.testing.assert_array_equal(load_numbers(registry.champion(KIND, SCOPE).folder), GOOD)
    runs = registry.client.search_runs([registry.experiment_id], order_by=["attributes.start_time DESC"])
    assert runs[0].info.status == "FAILED" and "MlflowException" in runs[0].data.tags["error"]
    decision, version = challenge(BETTER)
    assert decision.promoted and registry.used_version(KIND, SCOPE) == version.version
    assert rollback(registry, KIND, SCOPE).after == "1", "the failed try is not in the history"
