"""The weights that a search for a better second fit tries: which linear program, how much mass, where it goes."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.pareto.admissible import AdmissibleSet, Float
from lightning_pareto.pareto.headroom import headroom
from lightning_pareto.reweighting.mass_preserving import GiveBack, MassPreservingProgram, give_back
from lightning_pareto.reweighting.weights import SampleWeights, weights_from

SHARES = (0.6, 0.0, 0.3)

TILTS = (0.0, 0.25)
"""Powers of the classes' errors. Measured on Fashion-MNIST with labels confused in one direction, 0.25 raised the worst
class by 11 points, 0.5 by 15 and 1 by 20, and the class that it is confused with fell by 3, 6 and 9."""

SAME = 0.01
"""Mean absolute difference below which two sets of weights count as one."""

TRIFLE = 1e-6
"""Relative gain that counts as none."""

LEAST_ERROR = 0.02
"""Added to the error of every class, so that a class without errors keeps some mass."""


@dataclass(frozen=True)
class Candidate:
    """One way to make weights.

    Attributes:
        measure: of the influence that they are made from.
        budget: share of the training mass that may move within the classes; 0 for weights of whole classes only.
        share: floor of every category's gain, as a share of the headroom: 0 for the sum of gains alone. Near 1, for the
            best minimum, the weights follow the noise of the validation set: on Fashion-MNIST with 30 % label noise
            the mean fell by 1 point against a share of 0.6.
        return_mass: how mass is given back within a class.
        tilt: power of the classes' validation errors by which their masses are multiplied; 0 keeps them.
    """

    measure: MeasureName
    budget: float
    share: float
    return_mass: GiveBack
    tilt: float = 0.0

    def __str__(self) -> str:
        tilt = f"classes by error^{self.tilt:g}" if self.tilt else ""
        if not self.budget:
            return tilt
        within = f"{self.measure}, budget {self.budget:g}, floors {self.share:g}, {self.return_mass}"
        return f"{within}, {tilt}" if tilt else within


def candidates(
    measures: Sequence[MeasureName], budgets: Sequence[float], with_targets: bool, with_tilt: bool
) -> list[Candidate]:
    """All combinations, those that are most likely to serve first.

    Args:
        measures: of the influence matrices at hand.
        budgets: shares of the training mass.
        with_targets: floors in the headroom say nothing where only some categories are to gain: they are 0 then.
        with_tilt: also move mass between the classes.
    """
    shares = (0.0,) if with_targets else SHARES
    tilts = TILTS if with_tilt else (0.0,)
    ways: tuple[GiveBack, ...] = ("additive", "multiplicative")
    within = [
        Candidate(measure, budget, share, way, tilt)
        for share, budget, tilt, measure, way in itertools.product(shares, budgets, tilts, measures, ways)
    ]
    alone = [Candidate(measures[0], 0.0, 0.0, "additive", tilt) for tilt in tilts if tilt]
    return within[:1] + alone + within[1:]


class CandidateWeights:
    """Turns candidates into weights; each linear program stays alive for the next candidate.

    Args:
        influences: one matrix for each measure.
        targets: which categories are to gain, (K,) bool; the others must not lose.
        accuracy: validation accuracy of every class, (K,), for tilting; not used without.
    """

    def __init__(
        self, influences: Mapping[MeasureName, InfluenceMatrix], targets: np.ndarray, accuracy: Float | None = None
    ) -> None:
        self._influences = influences
        self._targets = targets
        self._accuracy = accuracy
        self._programs: dict[MeasureName, MassPreservingProgram] = {}
        self._headrooms: dict[tuple[MeasureName, float], float] = {}

    @property
    def able(self) -> bool:
        """Whether every influence knows some target: else there are no weights to be made from it."""
        return all((self._targets & influence.present).any() for influence in self._influences.values())

    def weights(self, candidate: Candidate) -> SampleWeights:
        """The weights of one candidate, of mean 1, with the gains that they predict.

        Gains from moving mass between classes are predicted badly: measured on Fashion-MNIST, single classes lost 20
        points where all should have gained.

        Raises:
            LinearProgramError: if the solver fails.
        """
        influence = self._influences[candidate.measure]
        values = self._within_classes(candidate) * self._of_classes(influence.labels, candidate.tilt)
        values *= len(values) / values.sum()
        return weights_from(influence, values, candidate=str(candidate))

    def distinct(self, given: Sequence[Candidate]) -> list[tuple[Candidate, SampleWeights]]:
        """The candidates that promise something and have not the weights of another."""
        kept: list[tuple[Candidate, SampleWeights]] = []
        if not self.able:
            return kept
        for candidate in given:
            weights = self.weights(candidate)
            others = [np.ones(len(weights)), *(other.values for _, other in kept)]
            if all(np.abs(weights.values - other).mean() > SAME for other in others) and self._promises(candidate):
                kept.append((candidate, weights))
        return kept

    def _promises(self, candidate: Candidate) -> bool:
        """Whether what moves within the classes gains something by prediction and harms no category."""
        if not candidate.budget:
            return True
        influence = self._influences[candidate.measure]
        gain = influence.predicted_gain(self._within_classes(candidate)) / influence.scale
        return bool(np.nanmin(gain) > -TRIFLE and np.nanmax(gain[self._targets]) > TRIFLE)

    def _within_classes(self, candidate: Candidate) -> Float:
        """Weights that keep the mass of every class, (N,)."""
        influence = self._influences[candidate.measure]
        if not candidate.budget:
            return np.ones(len(influence.labels))
        present = influence.present
        scores = influence.scores[:, present]
        scale, admissible = influence.scale[present], AdmissibleSet(influence.labels, candidate.budget)
        if candidate.measure not in self._programs:
            chosen = self._targets[present]
            self._programs[candidate.measure] = MassPreservingProgram(scores, scale, admissible, chosen)
        key = candidate.measure, candidate.budget
        if candidate.share and key not in self._headrooms:
            self._headrooms[key] = headroom(scores, scale, admissible).value
        floor = candidate.share * self._headrooms[key] if candidate.share else 0.0
        removed = self._programs[candidate.measure].solve(np.full(scores.shape[1], floor), candidate.budget)
        return give_back(removed, admissible, candidate.return_mass)

    def _of_classes(self, labels: np.ndarray, tilt: float) -> Float:
        """A factor for every sample, by the validation error of its class, (N,)."""
        if not tilt or self._accuracy is None:
            return np.ones(len(labels))
        error = 1 - np.where(np.isnan(self._accuracy), np.nanmean(self._accuracy), self._accuracy)
        factors: Float = (error + LEAST_ERROR) ** tilt
        chosen: Float = factors[labels]
        return chosen
