"""The steps of a search for a better second fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lightning_pareto.influence.categories import deal_folds
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.tuner.choice import Tried
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.search import Finalist, Half, PaperSearch, ScreeningSearch, Search, Situation
from lightning_pareto.integration.tuner.starting_point import check_goes_on
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.integration.tuner.trials import Trial, Trials
from lightning_pareto.pareto.demand import chosen_categories
from lightning_pareto.reweighting.outcomes import Outcome
from lightning_pareto.reweighting.thresholds import GeneticSearch, GridSearch, RandomSearch, ThresholdSearch
from lightning_pareto.reweighting.weights import SampleWeights

_FIRST = Trial("first fit", "initial", None, keeps=True)


@dataclass(frozen=True, eq=False)
class Analysis:
    """The model to start with, and influence on it.

    Attributes:
        given: the model to start with, at its best epoch.
        following: the checkpoint from which trials take their epoch.
        at: the model where influence was taken.
        influences: one matrix for each measure.
    """

    given: TrialResult
    following: Path
    at: Outcome
    influences: Mapping[MeasureName, InfluenceMatrix]

    @property
    def influence(self) -> InfluenceMatrix:
        """That of the first measure."""
        return next(iter(self.influences.values()))


def analyse(trials: Trials, options: TuningOptions, checkpoint: Path | None) -> Analysis:
    """Make the ordinary fit, if there is none, and estimate influence.

    It is taken where the model is best; where a trial is to be compared with the model that it starts from, there.

    Raises:
        ValueError: if no epoch can follow the checkpoint that trials start from.
    """
    if checkpoint is None:
        first = trials.run(_FIRST)
        assert first.checkpoint is not None
        best, following = first.checkpoint, first.next_checkpoint or first.checkpoint
    else:
        best = following = checkpoint
    check_goes_on(following)
    at = best if options.search == "screening" and options.mode == "direct" else following
    looks = {m: Trial(f"influence on the {m}", "checkpoint", 0, at, analyse=m) for m in options.measures}
    results = {measure: trials.run(look) for measure, look in looks.items()}
    outcome = results[options.measures[0]]
    given = first if checkpoint is None else outcome
    influences = {measure: trials.influence(look) for measure, look in looks.items()}
    return Analysis(replace(given, checkpoint=best), following, outcome.outcome, influences)


def situation_of(trials: Trials, options: TuningOptions, analysis: Analysis, callback: ParetoCallback) -> Situation:
    """Choose what a trial has to beat and which categories are to gain."""
    halves, before = _halves(analysis, callback.options, callback.data.categories is None), analysis.at
    situation = Situation(halves, analysis.following, before, analysis.influence.present, chosen=False)
    if options.mode == "course_correction":
        step = situation.epoch("ordinary epoch", None, keeps=options.last_fit == "epoch")
        situation = replace(situation, reference=trials.run(step).outcome, chosen=True)
    if options.targets is not None:
        situation = replace(situation, chosen=True)
        targets = chosen_categories(analysis.influence.names, options.targets)
    elif options.mode == "course_correction":
        targets = situation.reference.accuracy < before.accuracy - options.epsilon
    elif options.search == "screening":
        targets = situation.targets
    else:
        targets = before.accuracy < np.nanmean(before.accuracy)
    return replace(situation, targets=targets & situation.targets)


def _halves(analysis: Analysis, options: InfluenceOptions, classes: bool) -> tuple[Half, ...]:
    """Every second fold of the validation set, and the others."""
    fold = deal_folds(torch.from_numpy(analysis.at.category), options.folds, options.seed).numpy()
    parts = [range(start, options.folds, 2) for start in (0, 1)]
    seen = [np.isin(fold, part) for part in parts]
    return tuple(
        Half(
            {measure: influence.of_folds(part) for measure, influence in analysis.influences.items()},
            ~own,
            analysis.at.on(own).accuracy if classes else None,
        )
        for part, own in zip(parts, seen, strict=True)
    )


def search_of(options: TuningOptions, situation: Situation) -> Search:
    """The search that the options name."""
    if options.search == "screening":
        return ScreeningSearch(options.measures, options.budgets)
    kinds: dict[str, Callable[[int, int, int], ThresholdSearch]] = {
        "genetic": GeneticSearch,
        "random": RandomSearch,
        "grid": GridSearch,
    }
    present = int(situation.halves[0].influences[options.measures[0]].present.sum())
    thresholds = kinds[options.search](present, options.population, options.seed)
    return PaperSearch(thresholds, options.max_weight, options.epsilon)


class LastFits:
    """Makes the fits that may be handed back.

    Args:
        trials: makes them.
        options: say of which kind they are.
        analysis: where they start.
        situation: likewise.
    """

    def __init__(self, trials: Trials, options: TuningOptions, analysis: Analysis, situation: Situation) -> None:
        self._trials = trials
        self._kind, self._measure = options.last_fit, options.measures[0]
        self._best = analysis.given.checkpoint
        self._situation = situation

    def ordinary(self) -> TrialResult:
        """The fit to compare with."""
        return self._trials.run(self._trial("ordinary epoch" if self._kind == "epoch" else "ordinary fit", None))

    def tried(self, finalist: Finalist) -> Tried:
        """The fits of a finalist."""
        fits = (self._trials.run(self._trial(f"refit, {finalist.name}", weights)) for weights, _ in finalist.fits)
        return Tried(finalist, tuple(fits))

    def joined(self, best_epoch: int, weights: SampleWeights | None) -> TrialResult:
        """The same fit on training and validation data, for as many epochs as validation chose."""
        validation = len(self._situation.reference.category)
        training = len(self._situation.halves[0].influences[self._measure].labels)
        values = np.ones(training) if weights is None else weights.values
        both = SampleWeights(np.append(values, np.ones(validation)))
        trial = replace(_FIRST, name="last fit, validation data included", weights=both, joins=best_epoch)
        return self._trials.run(trial)

    def _trial(self, name: str, weights: SampleWeights | None) -> Trial:
        if self._kind == "epoch":
            return self._situation.epoch(name, weights, keeps=True)
        if self._kind == "scratch":
            return replace(_FIRST, name=name, weights=weights)
        return Trial(name, "weights", None, self._best, weights, keeps=True)
