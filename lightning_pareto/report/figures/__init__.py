"""Figures of results. As in torchmetrics, each takes optional axes and returns the figure and its axes."""

from lightning_pareto.report.figures.accuracy import plot_accuracy
from lightning_pareto.report.figures.comparison import plot_comparison
from lightning_pareto.report.figures.exchange_rates import plot_exchange_rates
from lightning_pareto.report.figures.headroom import plot_headroom
from lightning_pareto.report.figures.influence import plot_influence
from lightning_pareto.report.figures.predicted import plot_predicted
from lightning_pareto.report.figures.search import plot_search
from lightning_pareto.report.figures.weights import plot_weights

__all__ = [
    "plot_accuracy",
    "plot_comparison",
    "plot_exchange_rates",
    "plot_headroom",
    "plot_influence",
    "plot_predicted",
    "plot_search",
    "plot_weights",
]
