"""The small plots of Dagster's UI: what they show, nothing for nothing, and a shop's names word for word."""

import math
import warnings

import pyarrow as pa
import pytest

from assets.plots import (
    DAYS,
    MAX_CATEGORIES,
    epochs_figure,
    events_figure,
    item_steps_figure,
    log_probabilities_figure,
    newest_days,
    plots,
    products_figure,
    realised_figure,
    sources_figure,
)
from ml.tables import TABLES

NAMES = ["$\\frac{", "_Hats", "Bags & <b>", "a very long name of a category that a shop may have chosen"]
LISTS = pa.list_(pa.string())
EMPTY = pa.chunked_array([], pa.float64())


def realised_rows(days, categories, **changes):
    row = {"source": "all", "metric": "recall", "value": 0.2, "low": 0.1, "high": 0.3, "customers": 9, "buyers": 9}
    rows = [row | {"category": category} | changes for _ in days for category in categories]
    table = pa.Table.from_pylist(rows, TABLES["realised"].schema)
    return table.append_column("date", pa.array([day for day in days for _ in categories], pa.string()))


def drawn(figure):
    """Draw the figure without a warning, as the UI's picture, and return its axes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (picture,) = plots(shown=figure).values()
    assert picture.value.startswith("![plot](data:image/png;base64,") and len(picture.value) < 40_000
    (axes,) = figure.axes
    assert axes.get_xlabel() and (axes.get_ylabel() or axes.get_yticklabels())
    return axes


def names_in(axes):
    return [text.get_text() for text in axes.figure.legends[0].get_texts()]


def test_events_are_stacked_by_action():
    counts = {"2025-12-31": {"search": 5, "click": 3, "purchase": 1}, "2026-01-02": {"click": 4}, "2026-01-01": {}}
    axes = drawn(events_figure(counts))
    assert names_in(axes) == ["search", "click", "purchase"]
    tops = [[bar.get_y() + bar.get_height() for bar in bars] for bars in axes.containers]
    assert tops == [[5, 0, 0], [8, 0, 4], [9, 0, 4]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["01-02"]
    assert len(drawn(events_figure({"2026-01-02": {"click": 4}})).patches) == 1


def test_item_steps_are_counted_per_category():
    steps = {name: pa.chunked_array([[1, 2, 2, 100]], pa.int32()) for name in NAMES}
    axes = drawn(item_steps_figure(steps | {"Gifts": pa.chunked_array([], pa.int32())}, 3))
    lines = [patch.get_data() for patch in axes.patches]
    assert len(lines) == len(NAMES) and all(line.values.sum() == 4 for line in lines)
    assert {line.edges[1] - line.edges[0] for line in lines} == {4}


def test_products_are_counted_per_query():
    axes = drawn(products_figure(pa.chunked_array([[["a"], ["a", "b"], ["a", "b"]], [[]]], LISTS)))
    (line,) = axes.patches
    assert line.get_data().values.tolist() == [1, 1, 2]


def test_the_best_epoch_is_marked():
    axes = drawn(epochs_figure([(3, 0.2), (1, 0.1), (2, 0.3)], "validation NDCG@10"))
    assert names_in(axes) == ["kept: epoch 2"]
    drawn(epochs_figure([(1, 0.0)], "validation NDCG@10"))


def test_log_probabilities_leave_out_answers_without_one():
    axes = drawn(log_probabilities_figure(pa.chunked_array([[-1.0, None, -3.0, -math.inf, -2.0]])))
    assert sum(bar.get_height() for bar in axes.patches) == 3
    assert names_in(axes) == ["median -2.00"]
    drawn(log_probabilities_figure(pa.array([-2.0] * 50)))


def test_every_source_has_its_bar():
    axes = drawn(sources_figure({"popular": 1234, "language_model": 2}))
    assert [bar.get_width() for bar in axes.patches] == [2, 0, 0, 1234]
    assert [text.get_text() for text in axes.texts] == ["2", "0", "0", "1,234"]


def test_recall_by_day_has_a_line_and_intervals_per_category():
    days = [f"2026-02-{day:02d}" for day in range(1, 29)]
    axes = drawn(realised_figure(realised_rows(days, ["b", "a"]), 12))
    assert axes.get_ylabel() == "Recall@12"
    assert names_in(axes) == ["a", "b"] and len(axes.collections) == 2
    assert all(line.get_ydata().tolist() == [0.2] * 28 for line in axes.lines)
    many = drawn(realised_figure(realised_rows(days[:1], [f"c{number}" for number in range(40)]), 10))
    assert len(many.lines) == MAX_CATEGORIES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_word_for_word(name):
    shown = name if len(name) <= 20 else name[:19] + "…"
    assert names_in(drawn(realised_figure(realised_rows(["2026-01-01"], [name]), 10))) == [shown]
    steps = {name: pa.chunked_array([[1]], pa.int32())}
    assert names_in(drawn(item_steps_figure(steps, 3)))[0] == shown


@pytest.mark.parametrize(
    "figure",
    [
        events_figure({}),
        events_figure({"2026-01-01": {}, "2026-01-02": {"click": 0}}),
        item_steps_figure({}, 3),
        item_steps_figure({"Gifts": pa.chunked_array([], pa.int32())}, 3),
        products_figure(pa.chunked_array([], LISTS)),
        epochs_figure([], "validation NDCG@10"),
        log_probabilities_figure(EMPTY),
        log_probabilities_figure(pa.array([None, None], pa.float64())),
        sources_figure({}),
        realised_figure(realised_rows([], []), 10),
        realised_figure(realised_rows(["2026-01-01"], ["a"], value=None), 10),
        realised_figure(realised_rows(["2026-01-01"], ["a"], source="popular"), 10),
    ],
)
def test_nothing_to_draw_is_no_plot(figure):
    assert figure is None
    assert plots(shown=figure) == {}


def test_the_newest_days_end_with_the_runs_own():
    days = [f"2026-01-{day:02d}" for day in range(31, 0, -1)]
    assert newest_days(days, "2026-01-30") == sorted(days)[30 - DAYS : 30]
    assert newest_days(days, "2025-12-31") == []
