"""The model that a search starts from, influence on it, and where the search goes from there."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.categories import deal_folds
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.search import Half, Situation
from lightning_pareto.integration.tuner.starting_checkpoint import check_can_continue
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.integration.tuner.trials import Trials
from lightning_pareto.pareto.demand import chosen_categories

FIRST_FIT = Trial("first fit", "initial", None, keeps=True)


@dataclass(frozen=True, eq=False)
class StartingModel:
    """The model that a search starts from, and influence on it.

    Attributes:
        given: its result, at its best epoch.
        following: the checkpoint from which trials of one epoch start.
        at: outcome of the model where influence was estimated.
        influence: on that outcome.
    """

    given: TrialResult
    following: Path
    at: Outcome
    influence: InfluenceMatrix


def find_starting_model(trials: Trials, options: TuningOptions, checkpoint: Path | None) -> StartingModel:
    """Make the ordinary fit, unless there is a checkpoint of one, and estimate influence.

    Influence is estimated where the model is best. If trials are compared with the model that they start from, it is
    estimated there.

    Raises:
        ValueError: if no epoch can follow the checkpoint that trials start from.
    """
    if checkpoint is None:
        first = trials.run(FIRST_FIT)
        assert first.checkpoint is not None
        best, following = first.checkpoint, first.next_checkpoint or first.checkpoint
    else:
        best = following = checkpoint
    check_can_continue(following)
    at = best if options.search == "mass_preserving" and options.mode == "direct" else following
    look = Trial("influence", "checkpoint", 0, at, analyse=True)
    result = trials.run(look)
    given = first if checkpoint is None else result
    return StartingModel(replace(given, checkpoint=best), following, result.outcome, trials.influence(look))


def situation_of(trials: Trials, options: TuningOptions, start: StartingModel, callback: ParetoCallback) -> Situation:
    """Choose what a trial has to beat and which categories have to gain."""
    classes, before = callback.data.categories is None, start.at
    both = Half(start.influence, np.zeros(len(before.category), dtype=bool), before.accuracy if classes else None)
    situation = Situation(
        halves=halves_of(start, callback.options.influence, classes=classes),
        both=both,
        checkpoint=start.following,
        reference=before,
        targets=start.influence.present,
        chosen=False,
    )
    if options.mode == "course_correction":
        step = situation.epoch("ordinary epoch", None, keeps=options.last_fit == "epoch")
        situation = replace(situation, reference=trials.run(step).outcome, chosen=True)
    if options.targets is not None:
        situation = replace(situation, chosen=True)
        targets = chosen_categories(start.influence.category_names, options.targets)
    elif options.mode == "course_correction":
        targets = situation.reference.accuracy < before.accuracy - options.epsilon
    elif options.search == "mass_preserving":
        targets = situation.targets
    else:
        targets = before.accuracy < np.nanmean(before.accuracy)
    return replace(situation, targets=targets & situation.targets)


def halves_of(start: StartingModel, options: InfluenceOptions, *, classes: bool) -> tuple[Half, ...]:
    """Influence on every second fold of the validation set, and on the others.

    Args:
        start: the model and its influence.
        options: how the folds were dealt.
        classes: whether the categories are the classes, which may be tilted by their accuracy.
    """
    fold = deal_folds(torch.from_numpy(start.at.category), options.folds, options.seed).numpy()
    parts = [range(first, options.folds, 2) for first in (0, 1)]
    seen = [np.isin(fold, part) for part in parts]
    return tuple(
        Half(
            start.influence.of_folds(part),
            ~own,
            start.at.on(own).accuracy if classes else None,
        )
        for part, own in zip(parts, seen, strict=True)
    )
