"""Weights and candidates for a better model."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lightning_pareto.candidates.evidence import Candidate
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trials import Trials
from lightning_pareto.linprog import InfeasibleError
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.reweighting.genetic_search import GeneticSearch, ThresholdSearch
from lightning_pareto.reweighting.paper import PaperProgram
from lightning_pareto.reweighting.reweight import solve_mass_preserving
from lightning_pareto.reweighting.weights import SampleWeights, weights_from

TILT = 0.25
"""Power of the class errors. On Fashion-MNIST with labels confused in one direction, 0.25 raised the worst class by 11
points, 0.5 by 15 and 1 by 20. The class it is confused with fell by 3, 6 and 9 points."""

ERROR_OFFSET = 0.02
"""Added to each class's error, so that a class without errors keeps some mass."""

SAME_WEIGHTS = 0.01
"""Mean absolute change of the weights up to which they count as unchanged."""

IDLE = 3
"""Generations in a row without new weights after which a search over thresholds ends."""


@dataclass(frozen=True, eq=False)
class Half:
    """Influence on one half of the validation set, so that the other half can judge what is made of it.

    Attributes:
        influence: of the training samples on this half.
        unseen: validation samples that the influence does not know, (n,) bool.
        accuracy: accuracy of the model on the samples that it knows, (K,); None if the categories are not the classes.
    """

    influence: InfluenceMatrix
    unseen: npt.NDArray[np.bool_]
    accuracy: Float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Situation:
    """Where a search starts.

    Attributes:
        halves: both halves of the validation set. Trials use the first.
        both: all of the validation set, with nothing unseen.
        checkpoint: the checkpoint from which trials run their epoch.
        reference: what a trial has to beat.
        targets: which categories have to gain, (K,) bool.
        chosen: whether the user, or a course correction, chose the targets. Otherwise all categories are targets.
    """

    halves: tuple[Half, ...]
    both: Half
    checkpoint: Path
    reference: Outcome
    targets: npt.NDArray[np.bool_]
    chosen: bool

    def epoch(self, name: str, weights: SampleWeights | None, keeps: bool = False) -> Trial:
        """One epoch from the checkpoint with these weights."""
        return Trial(name, "checkpoint", 1, checkpoint=self.checkpoint, weights=weights, keeps=keeps)

    def judged(self, outcome: Outcome) -> Outcome:
        """The part of an outcome that the weights of a trial have not seen."""
        return outcome.on(self.halves[0].unseen)


@dataclass(frozen=True, eq=False)
class Finalist:
    """Weights that deserve a complete fit.

    Attributes:
        name: how they were made.
        fits: weights and the validation samples that they do not know, made alike from each half, or from one only. A
            fit without weights also trains on the other samples of the validation set.
        looks: among how many weights these were chosen by their accuracy on those samples.
        from_all: weights made in the same way from all of the validation set; None if there are none.
        confirms: whether it is a larger step with the weights that the verdict is about.
        last_resort: whether it gets fits only if nothing was accepted before.
        candidate: what is done to the fitted model with the weights, instead of a fit; None for a fit.
    """

    name: str
    fits: tuple[tuple[SampleWeights | None, npt.NDArray[np.bool_]], ...]
    looks: int = 1
    from_all: SampleWeights | None = None
    confirms: bool = False
    last_resort: bool = False
    candidate: Candidate | None = None


def find_weights(options: TuningOptions, situation: Situation, trials: Trials, epochs: int) -> list[Finalist]:
    """The weights of the search that the options ask for, the most promising first; empty if none are any good.

    Args:
        options: which search, and its options.
        situation: where to start.
        trials: runs the trials of a genetic search.
        epochs: number of epochs that those may spend.
    """
    if options.search == "mass_preserving":
        return mass_preserving(options, situation)
    present = int(situation.halves[0].influence.present.sum())
    thresholds = GeneticSearch(present, options.population, options.seed)
    return search_thresholds(thresholds, options, situation, trials, epochs)


def candidates_for(options: TuningOptions, situation: Situation) -> list[Finalist]:
    """The candidates, with weights from either half that keep the mass of every class."""
    weights, candidates = _on_each_half(options.budget, 0.0, situation), enumerate(options.cheap)
    return [replace(weights, name=one.name, confirms=not number, candidate=one) for number, one in candidates]


def mass_preserving(options: TuningOptions, situation: Situation) -> list[Finalist]:
    """Weights that keep the masses of the classes, which rarely harm any, and those that raise weak classes as well.

    Nothing is proposed that hardly changes anything.
    """
    tilts = situation.halves[0].accuracy is not None and not situation.chosen
    found = [_on_each_half(options.budget, tilt, situation) for tilt in (0.0, TILT)[: 1 + tilts]]
    start = situation.halves[0].influence.present_weights
    return [one for one in found if any(np.abs(w.values - start).mean() > SAME_WEIGHTS for w, _ in one.fits if w)]


def _on_each_half(budget: float, tilt: float, situation: Situation) -> Finalist:
    fits = tuple((_weights(half, budget, tilt, situation), half.unseen) for half in situation.halves)
    everything = _weights(situation.both, budget, tilt, situation)
    return Finalist(_name(budget, tilt), fits, from_all=everything, confirms=not tilt, last_resort=tilt > 0)


def _name(budget: float, tilt: float) -> str:
    return f"budget {budget:g}" + f", classes by error^{tilt:g}" * (tilt > 0)


def _weights(half: Half, budget: float, tilt: float, situation: Situation) -> SampleWeights:
    """Weights with mean 1 that keep the masses of the classes, times a power of each class's error."""
    targets = np.flatnonzero(situation.targets & half.influence.present).tolist() if situation.chosen else None
    values = solve_mass_preserving(half.influence, targets, budget)
    if tilt and half.accuracy is not None:
        error = 1 - np.where(np.isnan(half.accuracy), np.nanmean(half.accuracy), half.accuracy)
        values = values * ((error + ERROR_OFFSET) ** tilt)[half.influence.labels]
    return weights_from(half.influence, values * len(values) / values.sum(), proposal=_name(budget, tilt))


def search_thresholds(
    thresholds: ThresholdSearch, options: TuningOptions, situation: Situation, trials: Trials, epochs: int
) -> list[Finalist]:
    """Search over the thresholds α of the paper's LP, each judged by one epoch; at most one finalist.

    The fitness is −∞ unless the accuracy of every target rises by more than ``epsilon``. Otherwise it is the mean over
    the other categories of their falls (0 if none falls). Among equals, the one whose targets rise most is kept.
    Weights that were tried before are answered from memory, and infeasible thresholds have the fitness −∞.

    Two things differ from the paper. The validation samples behind the influence are not those that measure accuracy.
    And weights are scaled to a mean of 1, since an epoch of another length would not fit into a learning rate schedule.

    Source: arXiv:2510.03950, Algorithm 1 (PARETO-LP-GA).
    """
    influence = situation.halves[0].influence
    present = influence.present
    if not (situation.targets & present).any():
        return []
    program = PaperProgram(influence.scores[:, present], situation.targets[present], options.max_weight)
    limit = trials.epochs_spent + epochs
    best, chosen, idle, tried = _HOPELESS, None, 0, set[bytes]()
    while trials.epochs_spent < limit and idle < IDLE:
        spent, generation, fitness = trials.epochs_spent, thresholds.ask(), []
        for alpha in generation:
            weights = _solve(program, influence, alpha)
            found = _HOPELESS
            if weights is not None and trials.epochs_spent < limit:
                tried.add(weights.values.tobytes())
                trial = situation.epoch("epoch of the paper's LP", weights)
                found = _fitness(situation, trials.run(trial).outcome, options.epsilon)
            fitness.append(found[0])
            if found > best:
                best, chosen = found, weights
        thresholds.tell(generation, fitness)
        idle = 0 if trials.epochs_spent > spent else idle + 1
    if chosen is None:
        return []
    fits = ((chosen, situation.halves[0].unseen),)
    return [Finalist("the paper's LP", fits, looks=len(tried), from_all=chosen)]


def _fitness(situation: Situation, outcome: Outcome, epsilon: float) -> tuple[float, float]:
    """Mean fall of the other categories, and mean rise of the targets."""
    before, after = situation.judged(situation.reference), situation.judged(outcome)
    change = np.nan_to_num(after.accuracy - before.accuracy)
    targets = situation.targets
    if (change[targets] <= epsilon).any():
        return _HOPELESS
    falls = np.minimum(change[~targets], 0)
    return float(falls.mean()) if len(falls) else 0.0, float(change[targets].mean())


_HOPELESS = (-np.inf, -np.inf)


def _solve(program: PaperProgram, influence: InfluenceMatrix, alpha: Float) -> SampleWeights | None:
    """The weights for these thresholds, scaled to an epoch of ordinary length; None if there are none."""
    try:
        values = program.solve(alpha)
    except InfeasibleError:
        return None
    if not values.any():
        return None
    values = values * len(values) / values.sum()
    name = "paper's LP, thresholds " + ", ".join(f"{a:.2f}" for a in alpha)
    return weights_from(influence, values, proposal=name)
