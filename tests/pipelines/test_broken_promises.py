"""The list of promises to break is that of this tree; breaking them takes too long for here."""

import pytest
from broken_promises import ROOT, breaks


@pytest.mark.parametrize("one", breaks(), ids=lambda one: one.promise)
def test_what_is_to_be_broken_stands_in_the_tree_once_and_its_test_exists(one):
    assert (ROOT / one.file).read_text("utf-8").count(one.was) == 1
    assert one.was != one.becomes
    for node in one.red.split():
        path, _, test = node.partition("::")
        assert f"def {test}(" in (ROOT / path).read_text("utf-8") if test else (ROOT / path).is_file()
