"""What the report shows of the experiments: their rows, and the paper's figures 5 and 6."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from ml.experiments import experiments
from ml.report.figures import METRICS, share_figure, zero_shot_figure
from ml.report.names import in_order, system_name
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {
    "ablation": (
        "Ablations (the paper's table 3)",
        "Parts of our system taken away or put in another's place. Below a value, its difference from the first row.",
    ),
    "zero_shot": (
        "Zero-shot (the paper's figure 5)",
        "Models fitted on one category, asked about another; N is how many places are filled by item id, here none. "
        "Systems that know items by id alone cannot be asked. Popularity alone counts the asked category's own "
        "training steps, which the others never see.",
    ),
    "low_resource": (
        "Low resource (the paper's figure 6)",
        "Everything fitted on a share of the training part, the same for all systems. Below a value, its difference "
        "from the whole sample.",
    ),
}


def experiment_kinds(settings: Settings, warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return every experiment in the order they are run, by kind; one that has no rows yet says how to make them."""
    kinds: dict[str, dict[str, Any]] = {
        kind: {"kind": kind, "title": title, "caption": text, "experiments": []}
        for kind, (title, text) in KINDS.items()
    }  # fmt: skip
    for experiment in experiments(settings):
        rows = warehouse.read("experiment_metrics", experiment=experiment.name).to_pylist()
        present = {row["system"] for row in rows}
        cells = {(row["system"], row["metric"]): row for row in rows}
        kinds[experiment.kind]["experiments"].append(
            {
                "question": experiment.question,
                "command": settings.command(f"experiments {shlex.quote(experiment.name)}"),
                "examples": rows[0]["examples"] if rows else None,
                "systems": [
                    {
                        "name": system_name(name, present),
                        "ours": name.startswith("ours"),
                        "cells": [cells[name, metric] for metric in METRICS],
                    }
                    for name in in_order(present)
                ],
            }
        )
    return [kind for kind in kinds.values() if kind["experiments"]]


def experiment_figures(settings: Settings, warehouse: Warehouse) -> dict[str, tuple[str, str, str, Figure]]:
    """Return (title, caption, file name, figure) of zero-shot and low resource, by kind, those that have rows."""
    zero_shot, shares = [], []
    for experiment in experiments(settings):
        rows = warehouse.read("experiment_metrics", experiment=experiment.name).to_pylist()
        if experiment.kind == "zero_shot":
            zero_shot += [{**row, "category": experiment.category} for row in rows]
        elif experiment.kind == "low_resource":
            shares += [{**row, "share": experiment.share} for row in rows]
    figures = {}
    if zero_shot:
        title, caption = "One category's models on the others", "Dots are means, lines intervals; ours is red."
        figures["zero_shot"] = (title, caption, "experiments-zero_shot", zero_shot_figure(zero_shot))
    if len({row["share"] for row in shares}) > 1:
        title, caption = "By the share of the training sample", "Bands are intervals."
        figures["low_resource"] = (title, caption, "experiments-low_resource", share_figure(shares))
    return figures
