"""What a search tells while it goes on."""

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.terminal import harmless

LAST_FIT = "last fit, validation data included"


class TrialLog:
    """Tells of every trial as it ends, on rank zero.

    Args:
        verbose: False says nothing.
        limit: epochs that may be spent.
    """

    def __init__(self, verbose: bool, limit: int) -> None:
        self._verbose = verbose
        self._limit = limit
        self._best: TrialResult | None = None

    def tell(self, name: str, result: TrialResult, spent: int) -> None:
        """A line about a trial: what was tried, its mean and its worst category, and the best mean so far."""
        accuracy = result.outcome.accuracy
        worst = int(np.nanargmin(accuracy))
        if name == LAST_FIT:  # measured on what it was trained on, it says nothing
            self.say(f"[{spent:>4} of {self._limit} epochs] {name}")
            return
        if self._best is None or result.outcome.macro > self._best.outcome.macro:
            self._best = result
        category = harmless(result.outcome.names[worst], 16)
        self.say(
            f"[{spent:>4} of {self._limit} epochs] {name:<72.72} mean {result.outcome.macro:6.1%}  worst "
            f"{accuracy[worst]:6.1%} ({category})  best mean {self._best.outcome.macro:.1%}"
        )

    def say(self, text: str) -> None:
        """Print on rank zero."""
        if self._verbose:
            _print(text)


@rank_zero_only
def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201
