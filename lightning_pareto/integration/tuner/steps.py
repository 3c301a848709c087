"""The steps of a search for a better second fit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.categories import deal_folds
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.tuner.judge import Tried
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.search import Finalist, Half, PaperSearch, ScreeningSearch, Search, Situation
from lightning_pareto.integration.tuner.starting_checkpoint import check_goes_on
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.integration.tuner.trials import Trial, Trials
from lightning_pareto.pareto.demand import chosen_categories
from lightning_pareto.reweighting.genetic_search import GeneticSearch
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
    classes, before = callback.data.categories is None, analysis.at
    both = Half(analysis.influences, np.zeros(len(before.category), dtype=bool), before.accuracy if classes else None)
    halves = _halves(analysis, callback.options, classes)
    situation = Situation(halves, both, analysis.following, before, analysis.influence.present, chosen=False)
    if options.mode == "course_correction":
        step = situation.epoch("ordinary epoch", None, keeps=options.last_fit == "epoch")
        situation = replace(situation, reference=trials.run(step).outcome, chosen=True)
    if options.targets is not None:
        situation = replace(situation, chosen=True)
        targets = chosen_categories(analysis.influence.category_names, options.targets)
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
    present = int(situation.halves[0].influences[options.measures[0]].present.sum())
    thresholds = GeneticSearch(present, options.population, options.seed)
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
        self._kind, self._joins = options.last_fit, options.include_validation
        self._analysis = analysis
        self._situation = situation

    def ordinary(self) -> TrialResult:
        """The fit to compare with."""
        return self._trials.run(self._trial("ordinary epoch" if self._kind == "epoch" else "ordinary fit", None))

    def tried(self, finalist: Finalist) -> Tried:
        """The fits of a finalist; the validation samples that the weights know may be trained on as well."""
        fits = enumerate(finalist.fits, 1)
        return Tried(finalist, tuple(self._tried(f"{number}, {finalist.name}", *fit) for number, fit in fits))

    def joined(self) -> Tried:
        """Fits on the training data and either half of the validation data, without weights."""
        halves = self._situation.halves
        return self.tried(Finalist("without weights", tuple((None, half.unseen) for half in halves)))

    def last(self, epochs: int, weights: SampleWeights | None) -> TrialResult:
        """A fit on training data, with these weights, and all validation data, for as many epochs as were best."""
        everything = np.ones(len(self._analysis.at.category), dtype=bool)
        trial = self._with_validation("last fit, validation data included", weights, everything)
        return self._trials.run(replace(trial, stops_after=epochs))

    def _tried(self, name: str, weights: SampleWeights | None, unseen: np.ndarray) -> TrialResult:
        if not self._joins:
            return self._trials.run(self._trial(f"refit {name}", weights))
        result = self._trials.run(self._with_validation(f"refit with half {name}", weights, ~unseen))
        return replace(result, outcome=result.outcome.placed(unseen, self._analysis.at))

    def _with_validation(self, name: str, weights: SampleWeights | None, joins: np.ndarray) -> Trial:
        values = np.ones(len(self._analysis.influence.labels)) if weights is None else weights.values
        return replace(_FIRST, name=name, weights=SampleWeights(np.append(values, np.ones(joins.sum()))), joins=joins)

    def _trial(self, name: str, weights: SampleWeights | None) -> Trial:
        if self._kind == "epoch":
            return self._situation.epoch(name, weights, keeps=True)
        if self._kind == "scratch":
            return replace(_FIRST, name=name, weights=weights)
        return Trial(name, "weights", None, self._analysis.given.checkpoint, weights, keeps=True)
