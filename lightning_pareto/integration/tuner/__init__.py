"""The search for a better second fit."""

from lightning_pareto.integration.tuner.tuner import ParetoTuner

__all__ = ["ParetoTuner"]
