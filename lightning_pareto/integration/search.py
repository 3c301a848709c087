"""Searches for weights that make a better second fit, by trials of one epoch from one checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.integration.trials import Trial, Trials
from lightning_pareto.linprog import InfeasibleError
from lightning_pareto.pareto.admissible import Float, predicted_gain
from lightning_pareto.reweighting.candidates import CandidateWeights, candidates
from lightning_pareto.reweighting.outcomes import Outcome
from lightning_pareto.reweighting.paper import PaperProgram
from lightning_pareto.reweighting.thresholds import ThresholdSearch
from lightning_pareto.reweighting.weights import SampleWeights

IDLE = 3
"""Generations in a row that bring no new weights, after which a search over thresholds ends."""


@dataclass(frozen=True, eq=False)
class Situation:
    """Where a search starts.

    Attributes:
        influences: one matrix for each measure.
        checkpoint: trials take their epoch from here.
        reference: what a trial has to beat.
        targets: which categories are to gain, (K,) bool.
        chosen: whether the user, or a course correction, chose the targets; else all are meant.
    """

    influences: Mapping[MeasureName, InfluenceMatrix]
    checkpoint: Path
    reference: Outcome
    targets: np.ndarray
    chosen: bool

    def epoch(self, name: str, weights: SampleWeights | None, keeps: bool = False) -> Trial:
        """One epoch from the checkpoint with these weights."""
        return Trial(name, "checkpoint", 1, checkpoint=self.checkpoint, weights=weights, keeps=keeps)


class Search(ABC):
    """Finds weights worth a fit."""

    @abstractmethod
    def find(self, situation: Situation, trials: Trials, epochs: int) -> list[SampleWeights]:
        """The weights found, best first; empty if none is any good.

        Args:
            situation: where to start.
            trials: makes them.
            epochs: how many may be spent.
        """


class ScreeningSearch(Search):
    """Tries all kinds of mass-preserving weights: first their predicted gains, then an epoch of those that differ.

    Trials are ranked by the mean over the targets of the probability that the validation samples' labels have: it
    moves with every sample, where the accuracy only moves with those near the border.

    Args:
        measures: of the influence matrices at hand.
        budgets: shares of the training mass that may move.
    """

    def __init__(self, measures: Sequence[MeasureName], budgets: Sequence[float]) -> None:
        self._measures = measures
        self._budgets = budgets

    def find(self, situation: Situation, trials: Trials, epochs: int) -> list[SampleWeights]:
        """See :class:`Search`."""
        maker = CandidateWeights(situation.influences, situation.targets)
        distinct = maker.distinct(candidates(self._measures, self._budgets, situation.chosen))[: max(epochs, 1)]
        if len(distinct) <= 1 or epochs < 2:
            return [weights for _, weights in distinct[:1]]
        scores = []
        for candidate, weights in distinct:
            outcome = trials.run(situation.epoch(f"epoch, {candidate}", weights)).outcome
            scores.append(float(np.nanmean(outcome.soft_accuracy[situation.targets])))
        return [distinct[i][1] for i in np.argsort([-score for score in scores], kind="stable")]


class PaperSearch(Search):
    """The paper's LP under a search over its thresholds α, each candidate judged by one epoch.

    Fitness is −∞ unless the accuracy of every target rises by more than ``epsilon``, else the mean over the other
    categories of their falls (0 where none falls); among equals the one whose targets rise most is kept. Weights that
    were tried before are answered from memory, and infeasible thresholds have fitness −∞.

    Args:
        thresholds: proposes α.
        max_weight: largest weight.
        epsilon: least rise of every target's accuracy.

    Source: arXiv:2510.03950, Algorithm 1 (PARETO-LP-GA).
    """

    def __init__(self, thresholds: ThresholdSearch, max_weight: float, epsilon: float) -> None:
        self._thresholds = thresholds
        self._max_weight = max_weight
        self._epsilon = epsilon

    def find(self, situation: Situation, trials: Trials, epochs: int) -> list[SampleWeights]:
        """See :class:`Search`; at most one."""
        influence = next(iter(situation.influences.values()))
        present = influence.present
        program = PaperProgram(influence.scores[:, present], situation.targets[present], self._max_weight)
        limit = trials.epochs_spent + epochs
        best, chosen, idle = _HOPELESS, None, 0
        while trials.epochs_spent < limit and idle < IDLE:
            spent, generation, fitness = trials.epochs_spent, self._thresholds.ask(), []
            for alpha in generation:
                weights = _solve(program, influence, alpha)
                affordable = weights is not None and trials.epochs_spent < limit
                found = self._fitness(situation, trials, weights) if affordable else _HOPELESS
                fitness.append(found[0])
                if found > best:
                    best, chosen = found, weights
            self._thresholds.tell(generation, fitness)
            idle = 0 if trials.epochs_spent > spent else idle + 1
        return [] if chosen is None else [chosen]

    def _fitness(self, situation: Situation, trials: Trials, weights: SampleWeights | None) -> tuple[float, float]:
        """Mean fall of the other categories, and mean rise of the targets."""
        outcome = trials.run(situation.epoch("epoch of the paper's LP", weights)).outcome
        change = np.nan_to_num(outcome.accuracy - situation.reference.accuracy)
        targets = situation.targets
        if (change[targets] <= self._epsilon).any():
            return _HOPELESS
        falls = np.minimum(change[~targets], 0)
        return float(falls.mean()) if len(falls) else 0.0, float(change[targets].mean())


_HOPELESS = (-np.inf, -np.inf)


def _solve(program: PaperProgram, influence: InfluenceMatrix, alpha: Float) -> SampleWeights | None:
    """The weights for these thresholds of the categories present; None if there are none."""
    try:
        values = program.solve(alpha)
    except InfeasibleError:
        return None
    if not values.any():
        return None
    gain = np.full(len(influence.names), np.nan)
    gain[influence.present] = predicted_gain(influence.scores[:, influence.present], values)
    metadata = {"candidate": "paper's LP, thresholds " + ", ".join(f"{a:.2f}" for a in alpha)}
    return SampleWeights(values, gain, influence.names, metadata=metadata)
