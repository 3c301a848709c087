"""What a search tells while it goes on."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from lightning_pareto.display.terminal import harmless
from lightning_pareto.evaluation.outcome import Outcome


class TrialLog:
    """Tells of every trial as it ends, on rank zero.

    Args:
        verbose: False says nothing.
        limit: epochs that may be spent.
    """

    def __init__(self, verbose: bool, limit: int) -> None:
        self._verbose = verbose
        self._limit = limit
        self._best = -np.inf

    def tell(self, name: str, outcome: Outcome | None, spent: int) -> None:
        """A line about a trial: what was tried, its mean and its worst category, and the best mean so far.

        Args:
            name: of the trial.
            outcome: of it; None if nothing is left that could measure it.
            spent: epochs of all trials so far.
        """
        line = f"[{spent:>4} of {self._limit} epochs] {name:<72}"
        if outcome is not None:
            accuracy, mean = outcome.accuracy, outcome.macro
            worst, self._best = int(np.nanargmin(accuracy)), max(self._best, mean)
            category = harmless(outcome.names[worst], 16)
            line += f" mean {mean:6.1%}  worst {accuracy[worst]:6.1%} ({category})  best mean {self._best:.1%}"
        self.say(line.rstrip())

    @contextlib.contextmanager
    def tell_of_interruption(self, folder: Path) -> Iterator[None]:
        """Say how to go on if the user ends the search."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
            self.say(
                f"\nThe search was interrupted. The trials that are finished are kept in {folder}: start the script "
                "again, and it goes on after them."
            )
            raise

    def say(self, text: str) -> None:
        """Print on rank zero."""
        if self._verbose:
            _print(text)


@rank_zero_only
def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201
