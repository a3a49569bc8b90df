"""The history of what was in use, the way back, and indexes that follow their model, on a real MLflow store."""

import pytest
from mlflow.exceptions import MlflowException
from model_registries import failing, new_registry, register

from ml.errors import BadInputError, HemlineError
from ml.models.champions import index_of, promote_index, rollback, rolled_back_versions

KIND, SCOPE = "item_embeddings", "Clothing"


@pytest.fixture
def registry(tmp_path):
    return new_registry(tmp_path)


@pytest.fixture
def fitted(registry, tmp_path):
    """Register the next version of a kind, and promote it."""

    def fit(number, kind=KIND, promoted=True, **tags):
        version = register(registry, tmp_path / "fitted", [number], kind, SCOPE, **tags)
        if promoted:
            registry.promote(version)
        return version

    return fit


def used(registry, kind=KIND):
    return registry.used_version(kind, SCOPE)


def test_rolling_back_twice_goes_two_promotions_back_and_then_says_there_is_no_more(registry, fitted):
    fitted(1.0)
    fitted(2.0, promoted=False)  # refused: never in use, so never gone back to
    fitted(3.0)
    fitted(4.0)
    assert used(registry) == "4"
    done = [rollback(registry, KIND, SCOPE) for _ in range(2)]
    assert [(one.before, one.after) for one in done] == [("4", "3"), ("3", "1")]
    assert used(registry) == "1"
    with pytest.raises(BadInputError, match="item_embeddings 1 for 'Clothing': no version that was in use before it"):
        rollback(registry, KIND, SCOPE)
    assert used(registry) == "1"


def test_after_a_rollback_and_a_new_model_the_way_back_passes_over_what_was_rolled_back(registry, fitted):
    for number in (1.0, 2.0):
        fitted(number)
    rollback(registry, KIND, SCOPE)
    fitted(3.0)
    assert rollback(registry, KIND, SCOPE).after == "1"
    tags = registry.versions(KIND, SCOPE)[0].tags
    assert tags["rolled_back_to"] == "1" and tags["rolled_back_at"].endswith("+00:00")
    assert set(rolled_back_versions(registry, KIND, SCOPE)) == {"2", "3"}


def test_a_rolled_back_version_cannot_be_promoted(registry, fitted):
    fitted(1.0)
    bad = fitted(2.0)
    rollback(registry, KIND, SCOPE)
    with pytest.raises(HemlineError, match="item_embeddings 2 for 'Clothing' was rolled back"):
        registry.promote(bad)
    assert used(registry) == "1"


@pytest.mark.parametrize(
    ("table", "when"),
    [
        ("registered_model_aliases", "1"),
        ("model_version_tags", "NEW.key = 'rolled_back_to'"),
        ("model_version_tags", "NEW.key = 'rolled_back_at'"),
    ],
)
def test_a_rollback_that_fails_half_way_is_done_by_repeating_it(registry, fitted, table, when):
    for number in (1.0, 2.0, 3.0):
        fitted(number)
    with failing(registry, table, when), pytest.raises(MlflowException):
        rollback(registry, KIND, SCOPE)
    assert used(registry) == "3"
    assert rollback(registry, KIND, SCOPE).after == "2" and used(registry) == "2"


def test_a_version_that_was_given_up_is_passed_over_even_if_its_rollback_failed_and_another_followed_it(
    registry, fitted
):
    for number in (1.0, 2.0):
        fitted(number)
    with failing(registry, "registered_model_aliases"), pytest.raises(MlflowException):
        rollback(registry, KIND, SCOPE)
    fitted(3.0)
    assert rollback(registry, KIND, SCOPE).after == "1"


def test_there_is_a_way_back_from_a_champion_whose_files_are_lost(registry, fitted):
    import shutil

    fitted(1.0)
    shutil.rmtree(fitted(2.0).folder)
    assert rollback(registry, KIND, SCOPE).after == "1"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("title_index", "follows title_encoder"),
        ("hats", "expected one of .*adapter"),
        ("adapter", "no adapter is in use for 'Clothing'"),
    ],
)
def test_what_cannot_be_rolled_back_is_said(registry, kind, words):
    with pytest.raises(BadInputError, match=words):
        rollback(registry, kind, SCOPE)


def test_an_index_is_promoted_only_with_the_model_it_was_made_of(registry, fitted):
    fitted(1.0)
    promote_index(registry, fitted(1.5, "id_index", promoted=False, item_embeddings_version="1"))
    assert used(registry, "id_index") == "1"
    late = fitted(1.6, "id_index", promoted=False, item_embeddings_version="1")
    fitted(2.0)
    with pytest.raises(HemlineError, match="made of item_embeddings 1, and in use is 2"):
        promote_index(registry, late)
    assert used(registry, "id_index") == "1"


def test_a_model_is_served_with_its_own_index_whatever_the_index_alias_says(registry, fitted):
    one = fitted(1.0)
    fitted(1.5, "id_index", item_embeddings_version="1")
    two = fitted(2.0)  # in use, and the run died before its index was made
    assert used(registry, "id_index") == "1" and index_of(registry, "id_index", two) is None
    fitted(2.4, "id_index", promoted=False, item_embeddings_version="2")
    assert index_of(registry, "id_index", two) is None, "nor is one that nobody judged yet"
    fitted(2.5, "id_index", item_embeddings_version="2")
    assert index_of(registry, "id_index", two).version == "3"
    rollback(registry, KIND, SCOPE)
    assert used(registry, "id_index") == index_of(registry, "id_index", one).version == "1"


def test_rolling_back_to_a_model_without_an_index_leaves_none_in_use(registry, fitted):
    fitted(1.0)
    fitted(2.0)
    fitted(2.5, "id_index", item_embeddings_version="2")
    rollback(registry, KIND, SCOPE)
    assert used(registry, "id_index") is None
