"""The loss curve as a figure, for MLflow and Dagster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_losses(losses: Sequence[tuple[int, float]], validation: Sequence[tuple[int, float]] = ()) -> Figure:
    """Return a figure of the training loss by optimiser step, with the validation losses as points.

    Both are (step, mean negative log-likelihood per response token in nats). The figure belongs to no window and to
    no pyplot state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([step for step, _ in losses], [loss for _, loss in losses], linewidth=1, label="training")
    if validation:
        axes.plot([step for step, _ in validation], [loss for _, loss in validation], "o", label="validation")
    axes.set(xlabel="optimiser step", ylabel="loss (nats per response token)")
    axes.grid(alpha=0.3)
    if losses or validation:
        axes.legend()
    return figure
