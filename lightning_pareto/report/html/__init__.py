"""The report as one HTML file."""

from lightning_pareto.report.html.page import render_report, write_report

__all__ = ["render_report", "write_report"]
