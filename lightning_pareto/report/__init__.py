"""What people see, from result objects only."""

from lightning_pareto.report.comparison import ClasswiseComparison
from lightning_pareto.report.figures import plot_comparison
from lightning_pareto.report.samples import SampleTable, suspected_samples, trade_off_samples

__all__ = [
    "ClasswiseComparison",
    "SampleTable",
    "plot_comparison",
    "suspected_samples",
    "trade_off_samples",
]
