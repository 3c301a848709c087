"""Figures of results. As in torchmetrics, each takes optional axes and returns the figure and its axes."""

from lightning_pareto.report.figures.accuracy import plot_accuracy, plot_ceiling, plot_comparison, plot_frontier
from lightning_pareto.report.figures.predicted import plot_predicted
from lightning_pareto.report.figures.samples import plot_influence, plot_weights
from lightning_pareto.report.figures.verdict import plot_exchange_rates, plot_headroom

__all__ = [
    "plot_accuracy",
    "plot_ceiling",
    "plot_comparison",
    "plot_exchange_rates",
    "plot_frontier",
    "plot_headroom",
    "plot_influence",
    "plot_predicted",
    "plot_weights",
]
