"""The callback: class-wise metrics during a fit, influence and verdict after it."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.curvature import FisherName
from lightning_pareto.influence.execution import Execution
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.influence.options import CurvatureName, InfluenceOptions
from lightning_pareto.influence.sharding import OtherProcessError
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.analysis.checkpoints import Checkpoint, check_checkpoint
from lightning_pareto.integration.analysis.checks import (
    check_data,
    check_strategy,
    warn_of_averaging,
    warn_of_unaveraged,
)
from lightning_pareto.integration.analysis.previews import save_previews
from lightning_pareto.integration.analysis.resumption import (
    back_on_device,
    fit_was_skipped,
    how_to_go_on,
    remove_stages,
)
from lightning_pareto.integration.analysis.run import influence_of, verdict_on
from lightning_pareto.integration.output import publish
from lightning_pareto.integration.output.last_fit import Analysis, Results
from lightning_pareto.integration.output.results_folder import ResultsFolder, results_folder
from lightning_pareto.integration.trainer.data_source import ParetoData
from lightning_pareto.integration.validation.callback import ClasswiseCallback
from lightning_pareto.integration.validation.metrics import Metrics
from lightning_pareto.pareto.demand import Targets, check_floors, chosen_categories, per_category
from lightning_pareto.pareto.verdict import ParetoVerdict, check_options
from lightning_pareto.storage.run_folders import INFLUENCE_FILE, RECORD_FILE, VERDICT_FILE, contains_results


class ParetoCallback(ClasswiseCallback):
    """Logs class-wise accuracy while a classifier is fitted, and says afterwards whether every class can still gain.

    Add it to a ``Trainer``; the LightningModule stays as it is. Each validation epoch logs ``val_accuracy/<class>``,
    ``val_support/<class>``, ``val_accuracy_macro`` and ``val_accuracy_worst`` to every logger, and from the second
    validation of a fit on ``val_accuracy_change/<class>`` (up to 20 classes) and ``val_accuracy_change_worst``, the
    change since the last one and that of the class that fell most. The same for the other ``metrics``. A class without
    samples logs its support only. After the fit it estimates the influence of every training sample on every category
    of the validation set, reaches a verdict, prints it on rank zero, logs its figures as ``pareto/…`` and keeps both as
    ``.influence`` and ``.verdict`` and on disk. A new fit with the same callback replaces them.

    What can be wrong with the data is checked before the first training step. An error after the fit never loses the
    trained model: it becomes a warning, and is raised again when the missing result is asked for.

    An analysis that was interrupted, or that a fit ended without, is made up for by fitting once more from the last
    checkpoint: ``trainer.fit(model, datamodule=datamodule, ckpt_path="last.ckpt")``. Where the fit had reached its last
    epoch nothing is left to train, and the analysis goes on after the last stage that is kept under ``dirpath``. One
    that was stopped early trains another epoch first.

    ``limit_val_batches`` shortens the epochs behind the logged accuracy and support; influence always reads the whole
    validation dataset, as it reads the whole training dataset. Of several validation loaders only one is used. A
    callback that averages the weights at the end of the fit has to come before this one in ``callbacks``.

    Args:
        task: how to read a batch; the default serves ``(x, y)`` batches with logits from ``forward`` and dict batches
            with ``labels`` and an output with ``.logits``.
        class_names: names of the classes; ``dataset.classes`` where there are, else numbers.
        categories: function of a validation batch returning (B,) integers, to ask about groups other than the classes.
        category_names: their names.
        curvature: see :func:`estimate_influence`.
        measure: ``"loss"`` or ``"soft_error"``.
        damping: λ as a share of each layer's mean eigenvalue.
        folds: parts of the validation set for cross-fitting; with less than 3 nothing can be proven.
        budget: share of the training mass that may move, see :func:`check_pareto`.
        level: of the verdict's test.
        targets: categories that are to gain, by name or number; all by default. See :func:`check_pareto`.
        floors: least relative gain of the others: one number, K, or some by name as ``{"shirt": -0.02}``.
        layers: take only parameters whose names match one of these shell patterns, for instance ``["head.*"]``.
        fisher: see :func:`estimate_influence`.
        curvature_samples: fit the curvature to so many random training samples, None for all.
        max_memory: bound in GiB, see :func:`estimate_influence`.
        checkpoint: take influence at the ``"best"`` weights by a monitoring ModelCheckpoint, where there is one, at the
            ``"last"``, or averaged over all that the ModelCheckpoint has ``"kept"`` or over a list of checkpoint files.
        train_dataloader: read the training samples from this loader instead of the trainer's, for instance one without
            augmentation; its dataset must have the same indices.
        val_dataloader_idx: which of several validation loaders to use.
        dirpath: where the results are written, in place of those that lie there. By default ``pareto`` under the
            trainer's log directory or, where an earlier fit has left results there, ``pareto_1`` and so on. If it is
            given, finished stages of the analysis are kept there until all of it is done.
        seed: of the Fisher labels and the folds.
        preview: function of a training dataset's item returning a picture (tensor, array or PIL image) or a text, for
            the report's table of suspected samples; pictures and texts in the items are found without it.
        analyse: compute influence and verdict after the fit; False only logs class-wise metrics, as for a second fit.
        metrics: what to log of every class: any of ``"accuracy"`` (which is the recall), ``"precision"``, ``"recall"``
            and ``"f1"``, or a mapping of names to these or to torchmetrics with ``average=None`` that take logits,
            ``{"accuracy": "accuracy", "specificity": MulticlassSpecificity(num_classes=4, average=None)}``.
        log_figures: give figures, a table of the classes and the report to the loggers after the fit: TensorBoard,
            Weights & Biases and MLflow show them, others get files in their folder for the run, where they have one.
            Takes matplotlib and Jinja2, ``pip install 'lightning_pareto[report]'``; without them they are left out.
        verbose: print the verdict.

    Raises:
        ValueError: for options out of range.

    Example:
        >>> pareto = ParetoCallback(class_names=["cat", "dog"], budget=0.3)
        >>> trainer = pl.Trainer(max_epochs=10, callbacks=[pareto], logger=False, accelerator="cpu")

        After ``trainer.fit(model, datamodule=datamodule)`` it has a verdict, before that none:

        >>> pareto.verdict
        Traceback (most recent call last):
        ...
        RuntimeError: there is no result: fit a Trainer with this callback first, ...
    """

    def __init__(
        self,
        *,
        task: ClassificationTask | None = None,
        class_names: Sequence[str] | None = None,
        categories: Categories | None = None,
        category_names: Sequence[str] | None = None,
        curvature: CurvatureName = "ekfac",
        measure: MeasureName = "loss",
        damping: float = 0.1,
        folds: int = 8,
        budget: float = 0.2,
        level: float = 0.05,
        targets: Targets = None,
        floors: float | Sequence[float] | dict[str, float] | None = None,
        layers: Sequence[str] | None = None,
        fisher: FisherName | None = None,
        curvature_samples: int | None = 10_000,
        max_memory: float | None = None,
        checkpoint: Checkpoint = "best",
        train_dataloader: Any = None,
        val_dataloader_idx: int = 0,
        dirpath: str | Path | None = None,
        seed: int = 0,
        preview: Callable[[Any], Any] | None = None,
        analyse: bool = True,
        metrics: Metrics = ("accuracy",),
        log_figures: bool = True,
        verbose: bool = True,
    ) -> None:
        data = ParetoData(
            task or ClassificationTask(),
            class_names,
            categories,
            category_names,
            train_dataloader,
            val_dataloader_idx,
            preview,
        )
        super().__init__(data, metrics)
        check_checkpoint(checkpoint)
        self.options = InfluenceOptions(
            curvature=curvature,
            measure=measure,
            damping=damping,
            folds=folds,
            seed=seed,
            layers=layers,
            fisher=fisher,
            curvature_samples=curvature_samples,
        )
        Execution(max_memory=max_memory)
        check_options(budget, level)
        check_floors(floors, targets)
        self.budget = budget
        self.level = level
        self.targets = targets
        self.floors = floors
        self.checkpoint = checkpoint
        self.max_memory = max_memory
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.analyse = analyse
        self.log_figures = log_figures
        self.verbose = verbose
        self._trained = False
        self._place: ResultsFolder | None = None  # of the results of this fit
        self._categories: Sequence[str] | None = None
        self._results = Results()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the logging functions that Lightning attaches, and with them the module."""
        return {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}

    @property
    def influence(self) -> InfluenceMatrix:
        """The influence matrix of the last fit.

        Raises:
            RuntimeError: if there is none, with the error that prevented it.
        """
        return self._results.influence

    @property
    def verdict(self) -> ParetoVerdict:
        """The verdict of the last fit.

        Raises:
            RuntimeError: if there is none, with the error that prevented it.
        """
        return self._results.verdict

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the fit before, and refuse a strategy that the analysis cannot run under."""
        if stage != "fit":
            return
        self.classwise.begin_fit()
        self._trained, self._place = False, None
        self._results.begin_fit(first=trainer.local_rank == 0)
        if self._wanted(trainer):
            check_strategy(trainer, otherwise=", or ParetoCallback(analyse=False)")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check data, labels and callbacks before any training."""
        self._trained = True
        self._prepare(trainer, pl_module)
        if self._wanted(trainer):
            warn_of_averaging(trainer, self, self.checkpoint)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute, keep, print and log the results; an error becomes a warning."""
        if self._wanted(trainer) and not trainer.interrupted:
            self._conclude(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same where the fit had ended before, so that Lightning left out its training."""
        if self._wanted(trainer) and not self._trained and fit_was_skipped(trainer):
            warn_of_unaveraged(trainer)
            with back_on_device(trainer, pl_module):
                self._prepare(trainer, pl_module)
                self._conclude(trainer, pl_module)

    def _prepare(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._wanted(trainer):
            self._place = results_folder(trainer, module, self.dirpath, (INFLUENCE_FILE, VERDICT_FILE))
            self._categories = check_data(trainer, module, self.data, self.options.layers)
            if self._categories is not None:
                chosen_categories(self._categories, self.targets)
                per_category(self.floors, self._categories, 0.0, "floors")

    def _conclude(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        try:
            influence = influence_of(
                trainer,
                module,
                self.data,
                self._categories,
                self.options,
                self.max_memory,
                self.checkpoint,
                self.dirpath,
                self._say,
            )
            self._judge(trainer, influence)
        except KeyboardInterrupt:
            if trainer.is_global_zero:
                self._say(f"\n{how_to_go_on(trainer, self.dirpath)}\n")
            raise
        except Exception as error:
            self._results.keep_error(error)
            if trainer.is_global_zero or not isinstance(error, OtherProcessError):
                told = f"ParetoCallback failed after the fit, the trained model is untouched: {error}"
                warnings.warn(told, stacklevel=2)

    def _judge(self, trainer: pl.Trainer, influence: InfluenceMatrix) -> None:
        """Keep the influence before anything else is done with it, then reach a verdict, keep, print and log it."""
        first, folder = trainer.is_global_zero, self._folder(trainer)
        self._results.keep_influence(influence)
        saved = first and publish.save_influence(influence, folder)
        if saved:
            self._results.announce(folder)
        options = {"budget": self.budget, "level": self.level, "targets": self.targets, "floors": self.floors}
        verdict = verdict_on(influence, folder if saved else None, options)
        self._results.keep_verdict(verdict)
        if saved:
            saved = publish.save_verdict(verdict, folder)
            remove_stages(folder)
        if saved:
            save_previews(trainer, self.data, influence, folder)
        if first:
            self._say(publish.told(verdict, folder if saved else None))
        failed = publish.log(trainer, verdict)
        if first and self.log_figures:
            publish.show(trainer, Analysis(influence, verdict), folder, failed)

    def _folder(self, trainer: pl.Trainer) -> Path:
        """Where the results go; not to corrections of another fit."""
        assert self._place is not None
        return self._place.choose(trainer, continued=lambda folder: not contains_results(folder, (RECORD_FILE,)))

    def _wanted(self, trainer: pl.Trainer) -> bool:
        return self.analyse and not getattr(trainer, "fast_dev_run", False)

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)  # noqa: T201
