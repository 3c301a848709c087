"""The callback that reruns an epoch with weights when classes fall."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl

from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.curvature import FisherName
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.influence.options import CurvatureName, InfluenceOptions
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.analysis.checks import check_data, check_strategy
from lightning_pareto.integration.analysis.resumption import back_on_device, fit_was_skipped, was_trained_before
from lightning_pareto.integration.analysis.run import AnalysisOptions
from lightning_pareto.integration.correction.epoch_rerun import EpochRerun
from lightning_pareto.integration.correction.record import Correction, Record, publish, save_resumed_record
from lightning_pareto.integration.correction.requirements import check_fit, rerun_loader
from lightning_pareto.integration.correction.rules import Rules, correction_of
from lightning_pareto.integration.correction.weights import CorrectiveWeights
from lightning_pareto.integration.output.results_folder import ResultsFolder, prepare_results_folder
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.validation.callback import ValidationCallback
from lightning_pareto.integration.validation.outcomes import OutcomeRecorder, outcome_of_state, state_of_outcome
from lightning_pareto.pareto.admissible import DEFAULT_BUDGET
from lightning_pareto.reweighting.mass_preserving import GiveBack
from lightning_pareto.storage.run_folders import RECORD_FILE


class CourseCorrection(ValidationCallback[OutcomeRecorder]):
    """Reruns an epoch with sample weights if some classes are worse after it than before.

    At the end of every epoch it compares the validation accuracy of every class with that of the previous epoch. If
    some class fell by more than ``threshold`` and beyond chance, it restores the state before the epoch and estimates
    the influence of the training samples there. It solves for weights that raise the fallen classes and, to first
    order, lower no other class below its earlier value. Then it reruns the epoch, sampling by these weights.

    The rerun is kept if every fallen class is better than after the ordinary epoch by more than ``least_gain``, and no
    other class is worse beyond chance. Otherwise the state after the ordinary epoch is restored, and the fit continues
    as if nothing had been tried. Either way, the following epochs sample ordinarily. A fit without a fall is bit for
    bit the fit without this callback.

    *Beyond chance*: an exact sign test on the validation samples whose correctness changed, or Fisher's test on the
    counts if a validation loader shuffles, at ``level`` over all classes together (Holm).

    Lightning reruns the epoch with its own loop, so gradient accumulation, schedulers, precision, hooks and
    ``training_step`` are those of any epoch. ``global_step``, schedules and ``max_epochs`` count it once. Loggers,
    ModelCheckpoint and EarlyStopping only see the epoch that is kept, at its end. There are two exceptions: a
    checkpoint from within the epoch (``every_n_train_steps``) is of the ordinary epoch, and loggers have already seen
    the steps and the validation of the ordinary epoch; they get the validation of the kept one at the same step.

    The callback moves itself to the front of the callbacks. It costs a copy of weights and optimizer state in host
    memory on every process, and two copies during a correction. Each correction costs one epoch plus the influence
    (for small convolutional networks, three to ten more).

    It needs one training loader with a map-style dataset and a validation at the end of each epoch, and refuses
    anything else before the fit starts. Attributes of the module that are neither parameters nor in its ``state_dict``
    are not restored.

    A fit that is resumed from a checkpoint decides as it would have without the interruption. If it was stopped during
    a correction, it runs that epoch from its beginning, ordinarily and then with weights, provided that the checkpoint
    is from the end of the previous epoch. The numbers are the same unless they depend on the process's random state,
    which checkpoints lack: dropout, or an order drawn from it. A checkpoint saved by the interruption itself is of the
    ordinary epoch, and the fit continues from there. An epoch that is resumed in its middle is not corrected.

    Args:
        threshold: how far an accuracy has to fall, in [0, 1).
        level: significance level of the tests against chance.
        least_gain: how much better than after the ordinary epoch every fallen class has to be.
        warmup_epochs: number of epochs at the beginning that are never rerun. The first epoch cannot be.
        max_corrections: largest number of epochs of a fit that are rerun, kept or not.
        task: see :class:`ParetoCallback`, as for all that follow.
        class_names: names of the classes.
        categories: function of a validation batch returning (B,) integers, to watch groups other than the classes.
        category_names: names of these groups.
        budget: share of the training mass that may move, see :func:`reweight`.
        keep: share of what the ordinary epoch would give each other class, to first order, that the weights leave it.
            With 0 a class may lose that gain, but nothing of what it had before. Often one class rises because another
            falls, and then nothing can be corrected with 1.
        method: see :func:`reweight`. For ``"paper"``, ``keep`` is the threshold of every class.
        return_mass: see :func:`reweight`. ``"multiplicative"`` removes harmful samples altogether.
        curvature: see :func:`estimate_influence`.
        measure: ``"loss"`` or ``"soft_error"``.
        damping: λ as a share of each layer's mean eigenvalue.
        layers: use only parameters whose names match one of these shell patterns, see :class:`ParetoCallback`.
        fisher: see :func:`estimate_influence`.
        curvature_samples: number of random training samples that the curvature is fitted to; None for all.
        max_memory: bound in GiB, see :func:`estimate_influence`.
        train_dataloader: estimate influence on this loader's samples, for instance without augmentation.
        val_dataloader_idx: which of several validation loaders to watch.
        dirpath: folder for the record and the weights, which replaces those already there. By default ``pareto`` under
            the trainer's log directory, or ``pareto_1`` and so on if an earlier fit has left results there. A fit from
            a checkpoint continues in the last one if the corrections there are those of the checkpoint.
        seed: seed of the draws and of the Fisher labels.
        verbose: print a line for every epoch that is rerun.

    Raises:
        ValueError: for options out of range.

    Example:
        >>> correction = CourseCorrection(threshold=0.05)
        >>> trainer = pl.Trainer(max_epochs=10, callbacks=[correction], logger=False, accelerator="cpu")
        >>> correction.corrections  # every epoch that was rerun
        ()

    Source: mode "Course Correction" of PARETO-LP-GA, arXiv:2510.03950, with weights from a mass-preserving linear
    program instead of a genetic search.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.05,
        level: float = 0.05,
        least_gain: float = 0.0,
        warmup_epochs: int = 3,
        max_corrections: int = 3,
        task: ClassificationTask | None = None,
        class_names: Sequence[str] | None = None,
        categories: Categories | None = None,
        category_names: Sequence[str] | None = None,
        budget: float = DEFAULT_BUDGET,
        keep: float = 0.0,
        method: Literal["mass_preserving", "paper"] = "mass_preserving",
        return_mass: GiveBack = "multiplicative",
        curvature: CurvatureName = "ekfac",
        measure: MeasureName = "loss",
        damping: float = 0.1,
        layers: Sequence[str] | None = None,
        fisher: FisherName | None = None,
        curvature_samples: int | None = 10_000,
        max_memory: float | None = None,
        train_dataloader: Any = None,
        val_dataloader_idx: int = 0,
        dirpath: str | Path | None = None,
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        super().__init__(
            DataSource(
                task=task or ClassificationTask(),
                class_names=class_names,
                categories=categories,
                category_names=category_names,
                train_dataloader=train_dataloader,
                val_dataloader_idx=val_dataloader_idx,
                owner="CourseCorrection",
            )
        )
        self.rules = Rules(
            threshold=threshold,
            level=level,
            least_gain=least_gain,
            warmup_epochs=warmup_epochs,
            max_corrections=max_corrections,
        )
        influence = InfluenceOptions(
            curvature=curvature,
            measure=measure,
            damping=damping,
            folds=1,
            seed=seed,
            layers=layers,
            fisher=fisher,
            curvature_samples=curvature_samples,
        )
        self.options = AnalysisOptions(influence=influence, checkpoint="last", max_memory=max_memory)
        self.weights = CorrectiveWeights(budget=budget, keep=keep, method=method, return_mass=return_mass)
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.seed = seed
        self.verbose = verbose
        self.results_folder: ResultsFolder | None = None  # of the current fit
        self._category_names: Sequence[str] | None = None
        self._record = Record()
        self._able = True  # False once influence or weights could not be computed
        self._before: Outcome | None = None  # after the previous epoch
        self._after: Outcome | None = None  # after the current epoch
        self._rerun: EpochRerun | None = None

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """Every epoch of the last fit that was rerun, kept or not, also from before the fit was resumed."""
        return self._record.corrections

    def state_dict(self) -> dict[str, Any]:
        """The record, the last outcome and whether corrections are still possible, for a checkpoint."""
        outcome = state_of_outcome(self._after or self._before)
        return {"corrections": [vars(each) for each in self.corrections], "outcome": outcome, "able": self._able}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint was written."""
        self._record.replace([Correction.of(state) for state in state_dict["corrections"]])
        self._before, self._able = outcome_of_state(state_dict["outcome"]), state_dict["able"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the previous fit, unless this one will train nothing, and move to the front of the callbacks."""
        if stage != "fit" or was_trained_before(trainer):
            return
        self._record.begin_fit(first=trainer.local_rank == 0)
        self._before = self._after = self._rerun = self.results_folder = None
        self._able = True
        if _wanted(trainer):
            check_strategy(trainer, "CourseCorrection")
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [self, *(each for each in callbacks if each is not self)]  # type: ignore[attr-defined]

    def consumer(self, trainer: pl.Trainer) -> OutcomeRecorder | None:
        """See :class:`ValidationCallback`."""
        return OutcomeRecorder(self.data) if trainer.state.fn == "fit" and not trainer.sanity_checking else None

    def on_collected(self, trainer: pl.Trainer, module: pl.LightningModule, consumer: OutcomeRecorder) -> None:
        """Keep the outcome of the epoch."""
        self._after = consumer.outcome(trainer, module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check data, labels and everything that a rerun needs before any training."""
        if _wanted(trainer):
            self.results_folder = prepare_results_folder(trainer, pl_module, self.dirpath, (RECORD_FILE,))
            check_fit(trainer)
            self._category_names = check_data(trainer, pl_module, self.data, self.options.influence.layers)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the corrections of a resumed fit that has made no other."""
        if self.results_folder is not None:
            save_resumed_record(trainer, self._record, self.results_folder)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same if nothing was left to train, so that later results are written next to them."""
        if _wanted(trainer) and self.results_folder is None and fit_was_skipped(trainer):
            with back_on_device(trainer, pl_module):
                self.results_folder = prepare_results_folder(trainer, pl_module, self.dirpath, (RECORD_FILE,))
            save_resumed_record(trainer, self._record, self.results_folder)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the counters of an epoch that may be rerun."""
        super().on_train_epoch_start(trainer, pl_module)
        self._rerun = self._after = None
        allowed = self._able and self.rules.allow(trainer.current_epoch, len(self.corrections))
        if allowed and self._before is not None and self.results_folder is not None:
            self._rerun = EpochRerun(trainer, besides=self)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Copy the state before the first batch, after all hooks of the epoch's start."""
        if batch_idx == 0 and self._rerun is not None:
            self._rerun.begin()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rerun the epoch if classes fell in it."""
        before, ordinary, rerun = self._before, self._after, self._rerun
        self._before, self._rerun = ordinary or before, None
        whole = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and not trainer.should_stop
        if before is None or ordinary is None or rerun is None or not rerun.can_run or not whole:
            return
        fallen = self.rules.fallen(before, ordinary)
        if fallen:
            self._correct(trainer, pl_module, fallen, before=before, ordinary=ordinary, rerun=rerun)

    def _correct(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        targets: list[int],
        *,
        before: Outcome,
        ordinary: Outcome,
        rerun: EpochRerun,
    ) -> None:
        """Rerun the epoch and keep the better one."""
        accepted = False
        try:
            rerun.go_back()
            again, self._after = None, None
            names = self._category_names
            weights = self.weights.find(trainer, module, self.data, self.options, category_names=names, targets=targets)
            if weights is None:
                self._able = False
            elif rerun.run(rerun_loader(trainer, weights, self.seed)):
                again = self._after
            accepted = again is not None and self.rules.better(ordinary, again, targets)
        finally:  # also after an interruption: a checkpoint saved then is of the ordinary epoch
            self._before = self._after = again if accepted else ordinary
            if not accepted:
                rerun.undo()
        if accepted:
            rerun.replay_validation()
        if weights is None:
            return
        assert self.results_folder is not None
        epoch = trainer.current_epoch
        done = correction_of(epoch, targets, before=before, ordinary=ordinary, rerun=again, accepted=accepted)
        publish(trainer, self._record, done, weights, self.results_folder, verbose=self.verbose)


def _wanted(trainer: pl.Trainer) -> bool:
    return not getattr(trainer, "fast_dev_run", False)
