"""Figures, sample tables and the HTML report, made from result objects only."""

from lightning_pareto.report.analysis import Analysis
from lightning_pareto.report.html.page import render_report, write_report
from lightning_pareto.report.previews import SamplePreviews
from lightning_pareto.report.sample_table import SampleTable
from lightning_pareto.report.samples import suspected_samples, trade_off_samples

__all__ = [
    "Analysis",
    "SamplePreviews",
    "SampleTable",
    "render_report",
    "suspected_samples",
    "trade_off_samples",
    "write_report",
]
