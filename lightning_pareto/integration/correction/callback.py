"""The callback that goes back when classes fall, and takes the epoch again with weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.curvature import FisherName
from lightning_pareto.influence.execution import Execution
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.influence.options import CurvatureName, InfluenceOptions
from lightning_pareto.influence.sharding import LostProcessError, OtherProcessError
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.analysis.checks import check_data, check_strategy
from lightning_pareto.integration.analysis.resumption import back_on_device, fit_was_skipped
from lightning_pareto.integration.analysis.run import influence_of
from lightning_pareto.integration.correction.epoch_rerun import SecondTake
from lightning_pareto.integration.correction.record import Correction, Record, end_record, publish
from lightning_pareto.integration.correction.requirements import check_fit, reweighted_take
from lightning_pareto.integration.correction.rules import Rules, described
from lightning_pareto.integration.correction.tally import Tally, decoded, encoded
from lightning_pareto.integration.correction.tally_callback import TallyCallback
from lightning_pareto.integration.correction.training_state import TrainingState
from lightning_pareto.integration.correction.weights import Remedy
from lightning_pareto.integration.output.results_folder import ResultsFolder, results_folder
from lightning_pareto.integration.trainer.data_source import ParetoData
from lightning_pareto.integration.trainer.processes import shard_of
from lightning_pareto.reweighting.mass_preserving import GiveBack
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.storage.run_folders import RECORD_FILE


class CourseCorrection(TallyCallback):
    """Takes an epoch again, with weights, after which some classes were worse than before it.

    At the end of every epoch it compares the validation accuracy of every class with that of the epoch before. If some
    fell by more than ``threshold`` and beyond chance, it goes back to the state before the epoch, estimates the
    influence of the training samples there, solves for weights that raise the fallen classes and lower no other below
    what it was, to first order, and takes the epoch again, drawing by those weights. The second take is kept if every
    fallen class is then better than after the first one by more than ``least_gain`` and no other is worse beyond
    chance; otherwise the state after the first take comes back, and the fit goes on as if nothing had been tried.
    Either way it goes on with ordinary sampling. A fit without a fall is, bit for bit, the fit without this callback.

    Chance: of the validation samples that changed, as many are lost as gained (an exact sign test on the same samples,
    or Fisher's test of the counts where a validation loader shuffles), each p-value times the number of classes, at
    ``level``.

    Lightning takes the epoch again with its own loop, so that gradient accumulation, schedulers, precision, hooks and
    ``training_step`` are those of any epoch, and ``global_step``, schedules and ``max_epochs`` count it once. Loggers,
    ModelCheckpoint and EarlyStopping see one take only: at the end of the epoch that which is kept. (A checkpoint from
    within the epoch, ``every_n_train_steps``, is of the ordinary take. Loggers have heard the ordinary take's steps and
    validation by then, and are given the validation of the kept take at the same step.) It puts itself first among the
    callbacks. Costs: a copy of weights and optimizer state in host memory on every process, two during a correction;
    for a correction one epoch and the influence (three to four more).

    It takes one training loader with a map-style dataset and validation at the end of each epoch, and refuses what it
    cannot do before the fit starts. Attributes of the module that are neither parameters nor in its ``state_dict`` are
    not taken back.

    A fit that is stopped and goes on from a checkpoint, ``trainer.fit(…, ckpt_path=…)``, decides as it would have
    without the stop: one stopped in a correction or a second take takes that epoch from its beginning, ordinarily and
    then with weights, if the checkpoint is of the end of the epoch before. The numbers are the same where nothing hangs
    on the process's random state, which checkpoints lack: not with dropout, or an order drawn from it. A checkpoint
    that is saved on the stop itself is of the ordinary take, and the fit goes on from that. An epoch resumed in its
    middle is not corrected.

    Args:
        threshold: how far an accuracy has to fall.
        level: of the tests against chance.
        least_gain: how much better than after the ordinary epoch every fallen class has to be.
        warmup_epochs: epochs at the beginning that are never taken again; the first one cannot be.
        max_corrections: how many epochs of a fit are taken again at most, kept or not.
        task: see :class:`ParetoCallback`, as for all that follow.
        class_names: names of the classes.
        categories: function of a validation batch returning (B,) integers, to watch groups other than the classes.
        category_names: their names.
        budget: share of the training mass that may move, see :func:`reweight`.
        keep: share of what the ordinary epoch would give every other class, to first order, that the weights leave it;
            at 0 it may lose that gain, but nothing of what it had before. Often one class rises because the other
            falls, and then nothing can be mended at 1.
        method: see :func:`reweight`; for ``"paper"``, ``keep`` is the threshold of every class.
        return_mass: see :func:`reweight`; ``"multiplicative"`` takes samples that harm out altogether.
        curvature: see :func:`estimate_influence`.
        measure: ``"loss"`` or ``"soft_error"``.
        damping: λ as a share of each layer's mean eigenvalue.
        layers: take only parameters whose names match one of these shell patterns.
        fisher: see :func:`estimate_influence`.
        curvature_samples: fit the curvature to so many random training samples, None for all.
        max_memory: bound in GiB, see :func:`estimate_influence`.
        train_dataloader: estimate influence on this loader's samples, for instance without augmentation.
        val_dataloader_idx: which of several validation loaders to watch.
        dirpath: where the record and the weights are written, in place of those that lie there. By default ``pareto``
            under the trainer's log directory or, where an earlier fit has left results there, ``pareto_1`` and so on.
            A fit from a checkpoint goes on in the last one if the corrections there are those of the checkpoint.
        seed: of the draws and of the Fisher labels.
        verbose: print a line for every epoch taken again.

    Raises:
        ValueError: for options out of range.

    Example:
        >>> correction = CourseCorrection(threshold=0.05)
        >>> trainer = pl.Trainer(max_epochs=10, callbacks=[correction], logger=False, accelerator="cpu")
        >>> correction.corrections  # every epoch that was taken again
        ()

    Source: mode "Course Correction" of PARETO-LP-GA, arXiv:2510.03950, with weights of mass-preserving linear
    programming in place of its genetic search.
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
        budget: float = 0.2,
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
        data = ParetoData(
            task or ClassificationTask(),
            class_names,
            categories,
            category_names,
            train_dataloader,
            val_dataloader_idx,
            owner="CourseCorrection",
        )
        super().__init__(data)
        self.rules = Rules(threshold, level, least_gain, warmup_epochs, max_corrections)
        self.options = InfluenceOptions(
            curvature=curvature,
            measure=measure,
            damping=damping,
            folds=1,
            seed=seed,
            layers=layers,
            fisher=fisher,
            curvature_samples=curvature_samples,
        )
        Execution(max_memory=max_memory)
        self.remedy = Remedy(budget, keep, method, return_mass)
        self.max_memory = max_memory
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.seed = seed
        self.verbose = verbose
        self._place: ResultsFolder | None = None  # of the record of this fit
        self._categories: Sequence[str] | None = None
        self._record = Record()
        self._able = True  # whether influence could be had so far
        self._before: Tally | None = None  # of the epoch before
        self._take: SecondTake | None = None
        self._start: TrainingState | None = None  # of the epoch under way

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the logging functions that Lightning attaches, and with them the whole module."""
        return {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """Every epoch of the last fit that was taken again, kept or not, also those before the fit was resumed."""
        return self._record.corrections

    def state_dict(self) -> dict[str, Any]:
        """The record, the last predictions and whether it has given up, for a checkpoint."""
        kept = self._after or self._before
        predictions = None if kept is None else encoded(kept)
        made = [vars(each) for each in self.corrections]
        return {"corrections": made, "predictions": predictions, "able": self._able}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self._record.replace([Correction.of(state) for state in state_dict["corrections"]])
        codes = state_dict["predictions"]
        self._before = None if codes is None else decoded(codes)
        self._able = state_dict.get("able", True)  # which older checkpoints lack

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the fit before, and come first among the callbacks."""
        if stage != "fit":
            return
        self._record.begin_fit(first=trainer.local_rank == 0)
        self._before = self._after = self._tallying = self._take = self._start = self._place = None
        self._able = True
        if _wanted(trainer):
            check_strategy(trainer, "CourseCorrection")
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [self, *(each for each in callbacks if each is not self)]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check data, labels and everything that a second take needs before any training."""
        if _wanted(trainer):
            self._place = results_folder(trainer, pl_module, self.dirpath, (RECORD_FILE,))
            check_fit(trainer)
            self._categories = check_data(trainer, pl_module, self.data, self.options.layers)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the corrections of a resumed fit that has made no other."""
        if self._place is not None:
            end_record(trainer, self._record, self._place)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same where nothing was left to train, so that what else is written then lies with them."""
        if _wanted(trainer) and self._place is None and fit_was_skipped(trainer):
            with back_on_device(trainer, pl_module):
                self._place = results_folder(trainer, pl_module, self.dirpath, (RECORD_FILE,))
            end_record(trainer, self._record, self._place)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the counters of an epoch that may be taken again."""
        self._take = self._start = self._after = None
        allowed = self._able and self.rules.allow(trainer.current_epoch, len(self.corrections))
        if allowed and self._before is not None and self._place is not None:
            self._take = SecondTake(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Copy the state before the first batch, when every hook of the epoch's start has run."""
        if batch_idx == 0 and self._take is not None and self._start is None:
            self._start = TrainingState.of(trainer, besides=self)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the epoch again if classes fell in it."""
        before, ordinary, start, take = self._before, self._after, self._start, self._take
        self._before, self._start, self._take = ordinary or before, None, None
        whole = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and not trainer.should_stop
        if before is None or ordinary is None or start is None or take is None or not whole:
            return
        fallen = self.rules.fallen(before, ordinary, self._categories)
        if fallen:
            self._correct(trainer, pl_module, fallen, (before, ordinary), start, take)

    def _correct(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        targets: list[int],
        tallies: tuple[Tally, Tally],
        start: TrainingState,
        take: SecondTake,
    ) -> None:
        """Take the epoch again and keep the better one."""
        ordinary, accepted, state_of_ordinary = tallies[1], False, TrainingState.of(trainer, besides=self)
        try:
            start.restore(trainer)
            weights = self._weights(trainer, module, targets)
            again = None if weights is None else self._taken_again(trainer, weights, take)
            accepted = again is not None and self.rules.better(ordinary, again, targets, self._categories)
        finally:  # also when it is interrupted: a checkpoint that is saved then is of the ordinary take
            self._before = self._after = again if accepted else ordinary
            if not accepted:
                state_of_ordinary.restore(trainer)
                take.undo()
        if accepted:
            take.tell_loggers()
        if weights is None:
            return
        assert self._place is not None
        done = described(trainer.current_epoch, targets, (*tallies, again), accepted, self._categories)
        publish(trainer, self._record, done, weights, self._place, self.verbose)

    def _taken_again(self, trainer: pl.Trainer, weights: SampleWeights, take: SecondTake) -> Tally | None:
        """The validation of the second take; None if it was not run to its end."""
        self._after = None
        return self._after if take.run(reweighted_take(trainer, weights, self.seed)) else None

    def _weights(self, trainer: pl.Trainer, module: pl.LightningModule, targets: list[int]) -> SampleWeights | None:
        """Weights for the fallen categories; None, with a warning, if they cannot be had, then for all the fit."""
        try:
            influence = influence_of(
                trainer, module, self.data, self._categories, self.options, self.max_memory, "last", None
            )
            with shard_of(trainer, module).agreement("search for weights"):
                return self.remedy.weights(influence, targets)
        except LostProcessError:  # without it the fit cannot go on either
            raise
        except Exception as error:
            self._able = False
            if trainer.is_global_zero or not isinstance(error, OtherProcessError):
                rank_zero_warn(f"CourseCorrection found no weights and the fit goes on without it: {error}")
            return None


def _wanted(trainer: pl.Trainer) -> bool:
    return not getattr(trainer, "fast_dev_run", False)
