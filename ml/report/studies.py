"""What the report shows of the experiments: their rows, and the paper's figures 5 and 6."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ml.experiments import experiments
from ml.report.figures import METRICS, share_figure, zero_shot_figure
from ml.report.names import in_order, system_name
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def experiment_rows(settings: Settings, warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return every experiment in the order they are run; one that has no rows yet says how to make them."""
    listed = []
    for experiment in experiments(settings):
        rows = warehouse.read("experiment_metrics", experiment=experiment.name).to_pylist()
        present = {row["system"] for row in rows}
        cells = {(row["system"], row["metric"]): row for row in rows}
        listed.append(
            {
                "name": experiment.name,
                "question": experiment.question,
                "systems": [
                    {"name": system_name(name, present), "cells": [cells[name, metric] for metric in METRICS]}
                    for name in in_order(present)
                ],
            }
        )
    return listed


def experiment_figures(settings: Settings, warehouse: Warehouse) -> list[tuple[str, str, Figure]]:
    """Return (title, file name, figure) of zero-shot and low resource, those that have rows."""
    zero_shot, shares = [], []
    for experiment in experiments(settings):
        rows = warehouse.read("experiment_metrics", experiment=experiment.name).to_pylist()
        if experiment.kind == "zero_shot":
            zero_shot += [{**row, "category": experiment.category} for row in rows]
        elif experiment.kind == "low_resource":
            shares += [{**row, "share": experiment.share} for row in rows]
    figures = []
    if zero_shot:
        title = "Zero-shot: one category's models on the others (the paper's figure 5)"
        figures.append((title, "experiments-zero_shot", zero_shot_figure(zero_shot)))
    if len({row["share"] for row in shares}) > 1:
        title = "Low resource: by the share of the training sample (the paper's figure 6)"
        figures.append((title, "experiments-low_resource", share_figure(shares)))
    return figures
