"""The Pareto checker: an influence matrix in, a verdict out."""

from lightning_pareto.pareto.verdict import ParetoVerdict, check_pareto

__all__ = ["ParetoVerdict", "check_pareto"]
