"""What a search prints."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from lightning_pareto.display.terminal import printable, wrapped
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.pareto.verdict import ParetoVerdict


class TrialLog:
    """Prints a line for every trial as it ends, on rank zero.

    Args:
        verbose: False prints nothing.
        limit: number of epochs that may be spent.
    """

    def __init__(self, verbose: bool, limit: int) -> None:
        self._verbose = verbose
        self._limit = limit
        self._best = -np.inf

    def report(self, name: str, outcome: Outcome | None, spent: int) -> None:
        """Print what was tried, its mean and worst accuracy, and the best mean so far.

        Args:
            name: name of the trial.
            outcome: outcome of the trial; None if no sample is left that could measure it.
            spent: epochs of all trials so far.
        """
        line = f"[{spent:>4} of {self._limit} epochs] {name:<72}"
        if outcome is not None:
            accuracy, mean = outcome.accuracy, outcome.macro
            worst, self._best = int(np.nanargmin(accuracy)), max(self._best, mean)
            category = printable(outcome.category_names[worst], 16)
            line += f" mean {mean:6.1%}  worst {accuracy[worst]:6.1%} ({category})  best mean {self._best:.1%}"
        self.say(line.rstrip())

    @contextlib.contextmanager
    def advice_on_interruption(self, folder: Path) -> Iterator[None]:
        """Say how to resume if the user interrupts the search."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
            self.say(
                f"\nThe search was interrupted. Finished trials are kept in {folder}. Start the script again to resume."
            )
            raise

    def say(self, text: str) -> None:
        """Print on rank zero."""
        if self._verbose:
            _print(text)


@rank_zero_only
def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def next_step(result: ParetoResult, verdict: ParetoVerdict, include_validation: bool) -> str:
    """What to do after a search that ended like this."""
    more_samples = "more validation samples can tell a smaller gain from chance"
    if result.accepted:
        advice = "measure the model on data that no decision has seen: trainer.test(model, datamodule)"
    elif verdict.underfitted:
        advice = "train longer first, since the first fit was underfitted: more epochs in trainer_factory. Search again"
    elif include_validation:
        advice = f"look at suspected_samples(tuner.influence) for wrong labels; {more_samples}"
    else:
        advice = f"ParetoTuner(…, include_validation=True) also trains on the validation data; {more_samples}"
    return "\n".join(wrapped(f"Next: {advice}."))
