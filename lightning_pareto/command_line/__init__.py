"""The command line: ``lightning-pareto check | reweight | export | report`` on what a fit has left on disk."""

from lightning_pareto.command_line.main import main

__all__ = ["main"]
