"""The second fit: search for weights that make a better model, and hand back nothing worse than an ordinary fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch

from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.search import PaperSearch, ScreeningSearch, Search, Situation
from lightning_pareto.integration.search_folder import TRIALS, begin, finish
from lightning_pareto.integration.trial_log import TrialLog
from lightning_pareto.integration.trial_results import TrialResult
from lightning_pareto.integration.trials import Trial, Trials
from lightning_pareto.integration.tuning_result import ParetoResult, choose, result_of
from lightning_pareto.pareto.admissible import check_budget
from lightning_pareto.pareto.verdict import ParetoVerdict, check_pareto
from lightning_pareto.reweighting.reweight import Targets, chosen_categories
from lightning_pareto.reweighting.thresholds import GeneticSearch, GridSearch, RandomSearch, ThresholdSearch
from lightning_pareto.reweighting.weights import SampleWeights

Mode = Literal["direct", "course_correction"]
SearchName = Literal["screening", "genetic", "random", "grid"]
Refit = Literal["scratch", "continue", "epoch"]

FINALISTS = 3
"""Weights that get a whole fit."""

LEAST_TRIALS = 2
"""Trials of one epoch for each of them, below which there are fewer of them."""


class ParetoTuner:
    """Searches for sample weights that make a better model, and never hands back a worse one.

    It makes an ordinary fit (or takes a checkpoint of one), estimates influence at its best epoch by validation, tries
    weights in trials of one epoch from a checkpoint, gives the best few of them a whole fit, and compares those with
    the ordinary one on the validation set. A reweighted model is accepted only if its mean accuracy over the
    categories is better beyond chance, for the number of fits looked at, and no category falls beyond chance;
    otherwise the ordinary model is handed back.

    Every trial is a fit of a new Trainer on a copy of the model, with one seed for all, so that it works with whatever
    strategy the Trainer has, and so that ordinary and reweighted fits differ in the weights only. Trials log and keep
    checkpoints in ``dirpath`` only. A search that was killed goes on after its last finished trial when it is started
    again; one that has ended starts anew.

    ``search="genetic"`` with ``refit="epoch"`` is PARETO-LP-GA as published: the paper's LP, a genetic algorithm over
    its thresholds, and the weighted epoch itself as the result. ``mode="course_correction"`` takes the last epoch
    again: the targets are the categories that fell in it, and it is to be beaten.

    Do not trust the validation accuracies of the result to the last tenth: the same samples have chosen it.

    Args:
        trainer_factory: makes a new Trainer, as for an ordinary fit; its ``max_epochs`` is that of every whole fit.
            Its callbacks take part in every trial, except for checkpoints, and early stopping only in whole fits.
        mode: compare with the epoch before (``"direct"``), or with the ordinary next epoch (``"course_correction"``).
        targets: categories to raise, by name or number. By default all for ``"screening"``, those below the mean
            accuracy for a direct search over thresholds, and those that fell for a course correction.
        search: ``"screening"`` of mass-preserving weights of all kinds; ``"genetic"``, ``"random"`` or ``"grid"`` over
            the thresholds of the paper's LP.
        refit: what is compared in the end: fits from ``"scratch"``, fits that ``"continue"`` at the best weights with
            a new optimizer, or the weighted ``"epoch"`` itself. By default from scratch after a screening, else the
            epoch.
        max_epochs_spent: bound on the epochs of all trials together, the first fit included; six whole fits by
            default. The influence costs three to four epochs more for each measure.
        budgets: shares of the training mass that a screening tries.
        measures: of the influence that a screening tries weights of.
        max_weight: largest weight of the paper's LP.
        epsilon: least rise of every target in the fitness of a search over thresholds.
        population: thresholds of a generation.
        level: of the tests that accept a model.
        callback: how batches are read and influence is estimated; ``ParetoCallback()`` by default.
        dirpath: the folder of all trials, which every process must see.
        seed: of all trials and of the search.
        verbose: print a line for every trial, and the result.

    Attributes:
        verdict: of the last fit; None before it.
        influence: likewise, for the first of the measures.

    Raises:
        ValueError: for options out of range.
    """

    def __init__(
        self,
        trainer_factory: Callable[[], pl.Trainer],
        *,
        mode: Mode = "direct",
        targets: Targets = None,
        search: SearchName = "screening",
        refit: Refit | None = None,
        max_epochs_spent: int | None = None,
        budgets: Sequence[float] = (0.3, 0.2, 0.4, 0.1),
        measures: Sequence[MeasureName] = ("loss",),
        max_weight: float = 2.0,
        epsilon: float = 0.0,
        population: int = 8,
        level: float = 0.05,
        callback: ParetoCallback | None = None,
        dirpath: str | Path = "pareto_tuner",
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, found {mode!r}")
        if search not in get_args(SearchName):
            raise ValueError(f"search must be one of {get_args(SearchName)}, found {search!r}")
        if refit is not None and refit not in get_args(Refit):
            raise ValueError(f"refit must be one of {get_args(Refit)}, found {refit!r}")
        if not budgets or not measures or isinstance(measures, str):
            raise ValueError("budgets and measures are lists of at least one, for instance measures=['loss']")
        for budget in budgets:
            check_budget(budget)
        if not 0 < level < 1 or not max_weight >= 1 or epsilon < 0:
            raise ValueError("level lies in (0, 1), max_weight is at least 1 and epsilon at least 0")
        default: Refit = "scratch" if search == "screening" and mode == "direct" else "epoch"
        self.verdict: ParetoVerdict | None = None
        self.influence: InfluenceMatrix | None = None
        self._factory = trainer_factory
        self._mode, self._targets, self._search = mode, targets, search
        self._refit: Refit = refit or default
        self._max_epochs_spent = max_epochs_spent
        self._budgets, self._measures = budgets, measures
        self._max_weight, self._epsilon, self._population = max_weight, epsilon, population
        self._level = level
        self._callback = callback or ParetoCallback()
        self._folder = Path(dirpath)
        self._seed = seed
        self._verbose = verbose

    def fit(
        self, model: pl.LightningModule, datamodule: pl.LightningDataModule, ckpt_path: str | Path | None = None
    ) -> ParetoResult:
        """Search, choose, and give ``model`` the weights of the chosen fit.

        Args:
            model: as every fit from scratch begins; it ends with the weights of the chosen fit.
            datamodule: the data; a random split in its ``setup`` must be seeded, as every trial calls it.
            ckpt_path: a checkpoint of an ordinary fit of this model, to start from. By default the tuner makes the
                ordinary fit.

        Returns:
            The result; its ``ckpt_path`` is the checkpoint of the chosen fit.

        Raises:
            TypeError: for anything but a LightningModule and a LightningDataModule, or if the factory does not make new
                Trainers.
            ValueError: if ``max_epochs_spent`` is too small for a first fit and one second fit, or from the checks that
                :class:`ParetoCallback` makes before a fit.
        """
        _check_kinds(model, datamodule)
        begin(self._folder)
        checkpoint = None if ckpt_path is None else Path(ckpt_path)
        trials = Trials(
            self._factory, model, datamodule, self._callback, self._folder / TRIALS, self._seed, self._targets
        )
        costs = self._costs(trials, checkpoint)
        trials.log = log = TrialLog(self._verbose, costs.limit)
        given, situation = self._analyse(trials, checkpoint)
        log.say(f"\n{self.verdict}\n")
        ordinary = self._last_fit(trials, "ordinary", None, given, situation)
        situation = self._aim(trials, situation)
        found: list[SampleWeights] = []
        if situation.targets.any() and (situation.chosen or self._verdict().answer != "no"):
            epochs = costs.limit - trials.epochs_spent - costs.finalists * costs.last_fit
            found = self._make_search().find(situation, trials, epochs)[: costs.finalists]
        tried = [
            (self._last_fit(trials, f"refit {number}", weights, given, situation), weights)
            for number, weights in enumerate(found, start=1)
        ]
        result = result_of(given, choose(given, ordinary, tried, self._level), tried, trials.finished.values())
        finish(self._folder, result)
        model.load_state_dict(torch.load(result.ckpt_path, map_location="cpu", weights_only=True)["state_dict"])
        log.say(f"\n{result}\n")
        return result

    def _costs(self, trials: Trials, checkpoint: Path | None) -> "_Costs":
        """Divide the epochs, before any is spent."""
        whole = int(trials.new_trainer().max_epochs or 0)
        first = 0 if checkpoint else whole
        last = 1 if self._refit == "epoch" else whole
        ordinary = 0 if self._refit == "scratch" and not checkpoint else last
        limit = self._max_epochs_spent or first + ordinary + (FINALISTS + 1) * whole
        left = limit - first - ordinary
        most = FINALISTS if self._search == "screening" else 1
        finalists = min(most, max(1, left // (last + LEAST_TRIALS)))
        if left < last:
            raise ValueError(
                f"max_epochs_spent={limit} does not pay for an ordinary fit and one reweighted fit: say at least "
                f"{first + ordinary + last}, better {first + ordinary + (FINALISTS + 1) * whole}"
            )
        return _Costs(limit, last, finalists)

    def _analyse(self, trials: Trials, checkpoint: Path | None) -> tuple[TrialResult, Situation]:
        """The ordinary fit, and influence: where it was best, or where trials start if they are compared with that."""
        best = following = checkpoint
        if checkpoint is None:
            first = trials.run(_FIRST)
            best, following = first.checkpoint, first.next_checkpoint or first.checkpoint
        assert best is not None
        assert following is not None
        at = best if self._search == "screening" and self._mode == "direct" else following
        analyses = {m: Trial(f"influence on the {m}", "checkpoint", 0, at, analyse=m) for m in self._measures}
        outcomes = [trials.run(trial).outcome for trial in analyses.values()]
        influences = {measure: trials.influence(trial) for measure, trial in analyses.items()}
        self.influence = influences[self._measures[0]]
        self.verdict = check_pareto(self.influence, budget=self._callback.budget, level=self._callback.level)
        trials.labels = self.influence.labels
        given = trials.run(next(iter(analyses.values()))) if checkpoint else first
        given = replace(given, checkpoint=best)
        return given, Situation(influences, following, outcomes[0], np.zeros(len(self.influence.names), bool), False)

    def _aim(self, trials: Trials, situation: Situation) -> Situation:
        """Choose what a trial has to beat and which categories are to gain."""
        before = situation.reference.accuracy
        reference = situation.reference
        if self._mode == "course_correction":
            reference = trials.run(situation.epoch("ordinary epoch", None, keeps=self._refit == "epoch")).outcome
        present = self._influence().present
        if self._targets is not None:
            targets = chosen_categories(self._influence().names, self._targets)
        elif self._mode == "course_correction":
            targets = reference.accuracy < before - self._epsilon
        elif self._search == "screening":
            targets = np.ones(len(before), dtype=bool)
        else:
            targets = before < np.nanmean(before)
        chosen = self._targets is not None or self._mode == "course_correction"
        return replace(situation, reference=reference, targets=targets & present, chosen=chosen)

    def _last_fit(
        self, trials: Trials, name: str, weights: SampleWeights | None, given: TrialResult, situation: Situation
    ) -> TrialResult:
        """A fit that may be handed back."""
        if self._refit == "epoch":
            return trials.run(situation.epoch(f"{name} epoch", weights, keeps=True))
        if self._refit == "scratch":
            return trials.run(replace(_FIRST, name=name if weights else _FIRST.name, weights=weights))
        return trials.run(Trial(name, "weights", None, given.checkpoint, weights, keeps=True))

    def _make_search(self) -> Search:
        if self._search == "screening":
            return ScreeningSearch(self._measures, self._budgets)
        kinds: dict[str, Callable[[int, int, int], ThresholdSearch]] = {
            "genetic": GeneticSearch,
            "random": RandomSearch,
            "grid": GridSearch,
        }
        count = int(self._influence().present.sum())
        thresholds = kinds[self._search](count, self._population, self._seed)
        return PaperSearch(thresholds, self._max_weight, self._epsilon)

    def _verdict(self) -> ParetoVerdict:
        assert self.verdict is not None
        return self.verdict

    def _influence(self) -> InfluenceMatrix:
        assert self.influence is not None
        return self.influence


_FIRST = Trial("first fit", "initial", None, keeps=True)


@dataclass(frozen=True)
class _Costs:
    """How the epochs are divided.

    Attributes:
        limit: of all together.
        last_fit: of one fit that may be handed back.
        finalists: how many reweighted fits may be handed back.
    """

    limit: int
    last_fit: int
    finalists: int


def _check_kinds(model: Any, datamodule: Any) -> None:
    if not isinstance(model, pl.LightningModule):
        raise TypeError(f"fit takes a LightningModule, found {type(model).__name__}")
    if not isinstance(datamodule, pl.LightningDataModule):
        raise TypeError(
            f"fit takes a LightningDataModule, found {type(datamodule).__name__}. From datasets: "
            "LightningDataModule.from_datasets(train, val, batch_size=64)"
        )
