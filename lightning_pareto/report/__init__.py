"""What people see, from result objects only."""

from lightning_pareto.report.comparison import ClasswiseComparison
from lightning_pareto.report.figures import plot_comparison

__all__ = ["ClasswiseComparison", "plot_comparison"]
