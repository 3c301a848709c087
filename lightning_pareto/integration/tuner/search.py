"""Searches for weights that make a better second fit, by trials of one epoch from one checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lightning_pareto.candidates.evidence import Candidate
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trials import Trials
from lightning_pareto.linprog import InfeasibleError
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.reweighting.genetic_search import GeneticSearch, ThresholdSearch
from lightning_pareto.reweighting.paper import PaperProgram
from lightning_pareto.reweighting.proposals import Proposal, ProposalSolver, proposals
from lightning_pareto.reweighting.weights import SampleWeights, weights_from

IDLE = 3
"""Generations in a row without new weights after which a search over thresholds ends."""


@dataclass(frozen=True, eq=False)
class Half:
    """Influence on one half of the validation set, so that the other half can judge what is made of it.

    Attributes:
        influences: one matrix for each measure.
        unseen: validation samples that the influence does not know, (n,) bool.
        accuracy: accuracy of the model on the samples that it knows, (K,); None if the categories are not the classes.
    """

    influences: Mapping[MeasureName, InfluenceMatrix]
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
        candidate: what is done to the fitted model with the weights, instead of a fit; None for a fit.
    """

    name: str
    fits: tuple[tuple[SampleWeights | None, npt.NDArray[np.bool_]], ...]
    looks: int = 1
    from_all: SampleWeights | None = None
    candidate: Candidate | None = None


def find_weights(options: TuningOptions, situation: Situation, trials: Trials, epochs: int) -> list[Finalist]:
    """The weights found by the search that the options ask for, the best first; empty if none are any good.

    Args:
        options: which search, and its options.
        situation: where to start.
        trials: runs the trials.
        epochs: number of epochs that may be spent.
    """
    if options.search == "screening":
        return screen(options, situation, trials, epochs)
    present = int(situation.halves[0].influences[options.measures[0]].present.sum())
    thresholds = GeneticSearch(present, options.population, options.seed)
    return search_thresholds(thresholds, options, situation, trials, epochs)


def without_fits(options: TuningOptions, situation: Situation) -> list[Finalist]:
    """The candidates that start from the fitted model, with the most promising weights from either half."""
    makers = [ProposalSolver(half.influences, situation.targets, half.accuracy) for half in situation.halves]
    if not all(maker.covers_targets for maker in makers):
        return []
    first = proposals(options.measures, options.budgets, situation.chosen, with_tilt=False)[0]
    everything = ProposalSolver(situation.both.influences, situation.targets, situation.both.accuracy)
    alike = _on_each_half(first, makers, everything, situation)
    return [replace(alike, name=candidate.name, candidate=candidate) for candidate in options.cheap]


def screen(options: TuningOptions, situation: Situation, trials: Trials, epochs: int) -> list[Finalist]:
    """Try many kinds of weights: first their predicted gains, then one epoch of those that differ.

    Within the classes the weights preserve mass. The classes keep their masses, or gain some according to their errors.

    Trials are ranked by the mean over the targets of the probability that the model gives to the labels of unseen
    validation samples. It changes with every sample, while the accuracy only changes with those near the decision
    boundary. The kinds of weights that come first are then applied to either half: the best that keeps the masses of
    the classes, the best that does not, and the others.
    """
    makers = [ProposalSolver(half.influences, situation.targets, half.accuracy) for half in situation.halves]
    tilts = situation.halves[0].accuracy is not None and not situation.chosen
    every = proposals(options.measures, options.budgets, situation.chosen, tilts)
    if not all(maker.covers_targets for maker in makers):  # one half has no sample of any target
        return []
    distinct = makers[0].distinct(every)[: max(epochs, 1)]
    scores = np.zeros(len(distinct))
    for i, (proposal, weights) in enumerate(distinct):
        if len(distinct) > 1 and epochs > 1:
            outcome = situation.judged(trials.run(situation.epoch(f"epoch, {proposal}", weights)).outcome)
            scores[i] = np.nanmean(outcome.soft_accuracy[situation.targets])
    ranked = _varied([distinct[i][0] for i in np.argsort(-scores, kind="stable")])
    everything = ProposalSolver(situation.both.influences, situation.targets, situation.both.accuracy)
    return [_on_each_half(proposal, makers, everything, situation) for proposal in ranked]


def _varied(ranked: list[Proposal]) -> list[Proposal]:
    """First the best that keeps the masses of the classes, which rarely harms any, then the best that does not."""
    kinds = [[one for one in ranked if bool(one.tilt) == tilts] for tilts in (False, True)]
    first = [kind[0] for kind in kinds if kind]
    return first + [one for one in ranked if one not in first]


def _on_each_half(
    proposal: Proposal, makers: list[ProposalSolver], everything: ProposalSolver, situation: Situation
) -> Finalist:
    pairs = zip(makers, situation.halves, strict=True)
    fits = tuple((maker.weights(proposal), half.unseen) for maker, half in pairs)
    return Finalist(str(proposal), fits, from_all=everything.weights(proposal))


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
    influence = next(iter(situation.halves[0].influences.values()))
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
