"""Figures, sample tables and the HTML report, made from result objects only."""

from lightning_pareto.report.figures import (
    plot_accuracy,
    plot_comparison,
    plot_exchange_rates,
    plot_headroom,
    plot_influence,
    plot_predicted,
    plot_search,
    plot_weights,
)
from lightning_pareto.report.html import render_report, write_report
from lightning_pareto.report.previews import SamplePreviews, preview_of
from lightning_pareto.report.samples import SampleTable, suspected_samples, trade_off_samples

__all__ = [
    "SamplePreviews",
    "SampleTable",
    "plot_accuracy",
    "plot_comparison",
    "plot_exchange_rates",
    "plot_headroom",
    "plot_influence",
    "plot_predicted",
    "plot_search",
    "plot_weights",
    "preview_of",
    "render_report",
    "suspected_samples",
    "trade_off_samples",
    "write_report",
]
