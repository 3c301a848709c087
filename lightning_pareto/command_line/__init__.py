"""The command line: ``lightning-pareto check | reweight | export | report`` on the results of a fit."""

from lightning_pareto.command_line.main import main

__all__ = ["main"]
