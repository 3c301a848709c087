"""The second fit: search for weights that make a better model, and hand back nothing worse than an ordinary fit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.datamodule import ReweightedDataModule
from lightning_pareto.integration.output.results_folder import why_not_writable
from lightning_pareto.integration.trainer.namespaces import fitting, is_a
from lightning_pareto.integration.tuner.advice import next_step
from lightning_pareto.integration.tuner.judge import choose, epochs_for, with_validation
from lightning_pareto.integration.tuner.messages import TrialLog
from lightning_pareto.integration.tuner.options import Epochs, Mode, Refit, SearchName, TuningOptions
from lightning_pareto.integration.tuner.search import Finalist
from lightning_pareto.integration.tuner.search_folder import TRIALS, finish
from lightning_pareto.integration.tuner.steps import LastFits, analyse, search_of, situation_of
from lightning_pareto.integration.tuner.trials import Trials
from lightning_pareto.pareto.demand import Targets
from lightning_pareto.pareto.verdict import ParetoVerdict, check_pareto
from lightning_pareto.storage.run_folders import RESULT_FILE


class ParetoTuner:
    """Searches for sample weights that make a better model, and never hands back a worse one.

    It makes an ordinary fit (or takes a checkpoint of one), estimates influence at its best epoch by validation, tries
    weights in trials of one epoch from a checkpoint, gives the best few of them whole fits, and compares those with
    the ordinary one. Weights fit the validation samples that they are made from: measured on those, a second fit on
    Fashion-MNIST gained 2.5 points where it gained 1 on test images. So weights are made from one half of the
    validation set, models are compared on the other, and each way to make weights is tried both ways round. A
    reweighted model is accepted only if its mean accuracy over the categories is better beyond chance for the number
    of fits looked at (beyond one standard error where the verdict is *yes* already), or that of some category is and
    the mean does not fall, and if no category falls beyond chance; otherwise the ordinary model is handed back.

    Every trial is a fit of a new Trainer on a copy of the model, with one seed for all, so that it works with whatever
    strategy the Trainer has, and so that ordinary and reweighted fits differ in the weights and the order of the
    samples only. A generator of the DataModule's own goes on from trial to trial, and then they differ in that as well.
    Trials log (to CSV, or TensorBoard where the Trainer does) and keep checkpoints in ``dirpath`` only. A search that
    was killed goes on after its last finished trial when it is started again; one that has ended starts anew. A folder
    belongs to one search: with other data, give another.

    ``search="genetic"`` with ``refit="epoch"`` is PARETO-LP-GA as published: the paper's LP, a genetic algorithm over
    its thresholds, and the weighted epoch itself as the result. ``mode="course_correction"`` takes the last epoch
    again: the targets are the categories that fell in it, and it is to be beaten.

    Do not trust the validation accuracies of the result to the last tenth: the same samples have chosen it.

    Args:
        trainer_factory: makes a new Trainer, as for an ordinary fit; its ``max_epochs`` is that of every whole fit.
            Its callbacks take part in every trial, except for checkpoints and those of this package, and early stopping
            only in whole fits.
        mode: compare with the epoch before (``"direct"``), or with the ordinary next epoch (``"course_correction"``).
        targets: categories to raise, by name or number. By default all for ``"screening"``, those below the mean
            accuracy for a direct search over thresholds, and those that fell for a course correction.
        search: ``"screening"`` of weights within the classes and of more weight for weak classes; ``"genetic"`` over
            the thresholds of the paper's LP.
        refit: what is compared in the end: fits from ``"scratch"``, fits that ``"continue"`` at the best weights with
            a new optimizer, or the weighted ``"epoch"`` itself. By default from scratch after a screening, else the
            epoch.
        max_epochs_spent: bound on the epochs of all trials together, the first fit included; by default six whole
            fits, one of them for the trials of one epoch, and nine with ``include_validation``. Influence costs three
            to four epochs more for each measure.
        budgets: shares of the training mass that a screening tries.
        measures: of the influence that a screening tries weights of.
        max_weight: largest weight of the paper's LP.
        epsilon: least rise of every target in the fitness of a search over thresholds.
        population: thresholds of a generation.
        level: of the tests that accept a model.
        include_validation: train on the validation data as well. Before the choice each fit takes the half that its
            weights are made from and is measured on the other half; after it the chosen fit is repeated on all of them,
            with weights made from all of them. Better wherever it was measured, but nothing is left that could measure
            the last model itself. A learning rate schedule that watches a validation metric sees training data in that
            last fit, which a warning says before the first.
        callback: how batches are read and influence is estimated; ``ParetoCallback()`` by default.
        dirpath: the folder of all trials, which every process must see.
        fingerprint: any text that changes when something changes that the tuner cannot see: the code of ``categories``,
            the model or the data. A search resumes only under the same fingerprint.
        seed: of all trials and of the search.
        verbose: print a line for every trial, and the result.

    Attributes:
        verdict: of the last fit; None before it.
        influence: likewise, for the first of the measures.

    Raises:
        ValueError: for options out of range.

    Example:
        >>> tuner = ParetoTuner(lambda: pl.Trainer(max_epochs=10), targets=["shirt"], max_epochs_spent=60)

        Then ``result = tuner.fit(model, datamodule)`` has ``result.accepted``, ``.ckpt_path`` and ``.weights``.
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
        include_validation: bool = False,
        callback: ParetoCallback | None = None,
        dirpath: str | Path = "pareto_tuner",
        fingerprint: str = "",
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        self.options = TuningOptions(
            mode,
            targets,
            search,
            refit,
            max_epochs_spent,
            budgets,
            measures,
            max_weight,
            epsilon,
            population,
            level,
            include_validation,
            seed,
        )
        if not callable(trainer_factory):
            raise TypeError(
                f"trainer_factory is a function that makes a Trainer, found {type(trainer_factory).__name__}: for "
                "instance lambda: pl.Trainer(max_epochs=10)"
            )
        self.verdict: ParetoVerdict | None = None
        self.influence: InfluenceMatrix | None = None
        self._factory = trainer_factory
        self._callback = callback or ParetoCallback()
        if self._callback.options.folds < 2:
            raise ValueError("the tuner splits the validation set: ParetoCallback(folds=8)")
        self._folder = Path(dirpath)
        self._fingerprint = fingerprint
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
            OSError: if ``dirpath`` cannot be written.
            TypeError: for anything but a LightningModule and a LightningDataModule with the loaders, or if the factory
                does not make new Trainers.
            ValueError: if ``max_epochs_spent`` is too small for a first fit and one second fit, or from the checks that
                :class:`ParetoCallback` makes before a fit.
        """
        _check_kinds(model, datamodule)
        _check_loaders(datamodule, self.options.include_validation)
        options, checkpoint = self.options, None if ckpt_path is None else Path(ckpt_path).resolve()
        reason = why_not_writable(self._folder)
        if reason:
            raise OSError(f"trials cannot be written to dirpath={str(self._folder)!r}: {reason}. Give another folder")
        folder = self._folder / TRIALS
        trials = Trials(
            self._factory,
            model,
            datamodule,
            self._callback,
            folder,
            options.seed,
            options.targets,
            options.include_validation,
            self._fingerprint,
        )
        epochs = options.divide(int(trials.factory().max_epochs or 0), checkpoint is not None)
        trials.log = log = TrialLog(self._verbose, epochs.limit)
        if (self._folder / RESULT_FILE).exists():
            log.say(f"The search that ended in {self._folder} is made anew, and its result will be replaced.")
        if trials.goes_on:
            log.say(f"An interrupted search goes on in {folder}.")
        with log.tell_of_interruption(folder):
            result, verdict = self._searched(trials, checkpoint, epochs, log)
        result = finish(self._folder, result, verdict)
        model.load_state_dict(torch.load(result.ckpt_path, map_location="cpu", weights_only=True)["state_dict"])
        log.say(f"\n{result}\n\n{next_step(result, verdict, options.include_validation)}\n")
        return result

    def _searched(
        self, trials: Trials, checkpoint: Path | None, epochs: Epochs, log: TrialLog
    ) -> tuple[ParetoResult, ParetoVerdict]:
        """Make all fits, and choose."""
        options = self.options
        analysis = analyse(trials, options, checkpoint)
        self.influence = analysis.influence
        verdict = check_pareto(self.influence, budget=self._callback.budget, level=self._callback.level)
        self.verdict = verdict
        log.say("\n" + str(verdict).split("\nNext: ")[0] + "\n")  # the search goes on by itself
        situation = situation_of(trials, options, analysis, self._callback)
        fits = LastFits(trials, options, analysis, situation)
        ordinary, found = fits.ordinary(), list[Finalist]()
        if situation.targets.any() and (situation.chosen or verdict.answer != "no"):
            left = epochs.limit - epochs.last_fits - trials.epochs_spent
            found = search_of(options, situation).find(situation, trials, left)[: epochs.finalists]
        tried = [fits.tried(finalist) for finalist in found]
        everything = trials.finished.values()
        joined = fits.joined() if options.include_validation else None
        improvable = verdict.improvable
        result, chosen = choose(analysis.given, ordinary, tried, everything, options.level, improvable, joined)
        if options.include_validation and chosen is not None:
            length = epochs_for([ordinary, *chosen.results])
            last = fits.last(length, chosen.finalist.whole)
            result = with_validation(result, chosen, length, last, everything)
        return result, verdict


def _check_kinds(model: Any, datamodule: Any) -> None:
    if not is_a(model, pl.LightningModule):
        raise TypeError(f"fit takes a LightningModule, found {type(model).__name__}")
    if not is_a(datamodule, pl.LightningDataModule):
        raise TypeError(
            f"fit takes a LightningDataModule, found {type(datamodule).__name__}. From datasets: "
            "LightningDataModule.from_datasets(train, val, batch_size=64)"
        )
    if isinstance(datamodule, ReweightedDataModule):
        raise TypeError("fit takes the DataModule without weights: tuner.fit(model, reweighted.datamodule)")


def _check_loaders(datamodule: pl.LightningDataModule, include_validation: bool) -> None:
    """Refuse loaders that the DataModule leaves to the LightningModule, which trials could not change."""
    changed = {"train_dataloader": "weights go into", "val_dataloader": "include_validation=True takes samples from"}
    for name in ("train_dataloader", "val_dataloader")[: 1 + include_validation]:
        if not is_overridden(name, datamodule, fitting(pl.LightningDataModule, datamodule)):
            raise TypeError(
                f"{changed[name]} the {name}() of the DataModule, and {type(datamodule).__name__} has none: give it "
                "the one that the LightningModule has"
            )
