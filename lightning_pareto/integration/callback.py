"""The callback: class-wise metrics during a fit, influence and verdict after it."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lightning_pareto.data.unchanged import unchanged
from lightning_pareto.display.terminal import printable_line
from lightning_pareto.display.warning import once, warn
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.curvature import FisherName
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import MeasureName
from lightning_pareto.influence.options import CurvatureName, InfluenceOptions
from lightning_pareto.influence.sharding import OtherProcessError
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.analysis import checks, resumption
from lightning_pareto.integration.analysis.checkpoints import Checkpoint, checkpoints_of_earlier_fits
from lightning_pareto.integration.analysis.loss_check import LossComparison
from lightning_pareto.integration.analysis.previews import save_previews
from lightning_pareto.integration.analysis.rehearsal import rehearse
from lightning_pareto.integration.analysis.run import AnalysisOptions, Question, influence_of, measure_step, verdict_on
from lightning_pareto.integration.output.files import save_analysis, save_influence
from lightning_pareto.integration.output.last_fit import LastFit
from lightning_pareto.integration.output.log_verdict import log_verdict, show_verdict
from lightning_pareto.integration.output.results_folder import ResultsFolder, prepare_results_folder
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.integration.validation.callback import ValidationCallback
from lightning_pareto.integration.validation.classwise_log import ClasswiseLog
from lightning_pareto.integration.validation.metrics import ClasswiseMetrics, Metrics
from lightning_pareto.pareto.admissible import DEFAULT_BUDGET
from lightning_pareto.pareto.demand import Targets, chosen_categories, per_category
from lightning_pareto.pareto.significance import LEAST_FOLDS
from lightning_pareto.pareto.verdict import DEFAULT_LEVEL, ParetoVerdict
from lightning_pareto.pareto.wording import NO_FOLDS
from lightning_pareto.report.analysis import Analysis
from lightning_pareto.storage.run_folders import INFLUENCE_FILE, RECORD_FILE, VERDICT_FILE, contains_results

KEPT = "pareto_classwise"
"""Key of the class-wise values in a checkpoint."""


class ParetoCallback(ValidationCallback[ClasswiseMetrics]):
    """Logs class-wise accuracy while a classifier is fitted, and reports afterwards whether every class can still gain.

    Add it to a ``Trainer``. The LightningModule stays as it is.

    **During the fit**, each validation epoch logs ``val_accuracy/<class>``, ``val_support/<class>``,
    ``val_accuracy_macro`` and ``val_accuracy_worst`` to every logger. From the second validation on it also logs
    ``val_accuracy_change/<class>`` (up to 20 classes) and ``val_accuracy_change_worst``, the change since the previous
    validation and that of the class that fell most. The same holds for the other ``metrics``. A class without samples
    only logs its support.

    With ``categories``, each validation epoch also logs ``val_category_accuracy/<category>``,
    ``val_category_support/<category>``, ``val_category_accuracy_macro`` and ``val_category_accuracy_worst``. The
    accuracy of a category is the share of its validation samples that are classified correctly. A category without
    samples only logs its support.

    **After the fit**, it estimates the influence of every training sample on every category of the validation set,
    reaches a verdict, prints it on rank zero and logs its numbers as ``pareto/…``. It keeps both as ``.influence`` and
    ``.verdict`` and on disk. A new fit with the same callback replaces them.

    Problems with the data are found before the first training step. An error after the fit never loses the trained
    model: it becomes a warning, and is raised again when you ask for the missing result.

    To make up for an analysis that was interrupted or is missing, fit once more from the last checkpoint:
    ``trainer.fit(model, datamodule=datamodule, ckpt_path="last.ckpt")``. If that fit had reached its last epoch,
    nothing is left to train, and the analysis resumes after the last stage kept under ``dirpath``. A fit that was
    stopped early trains another epoch first.

    ``limit_val_batches`` shortens the epochs behind the logged accuracy. Influence always reads the whole training and
    validation datasets. If there are several validation loaders, only one is used. A callback that averages the weights
    at the end of the fit must come before this one in ``callbacks``.

    Args:
        task: how to read a batch. The default serves ``(x, y)`` batches with logits from ``forward``, and dict batches
            with ``labels`` and an output with ``.logits``.
        class_names: names of the classes; by default ``dataset.classes`` if there are any, else numbers.
        categories: function of a validation batch returning (B,) integers, to ask about groups other than the classes.
            It is also called in every validation epoch, for their accuracy.
        category_names: names of these groups; by default numbers up to the largest one seen.
        curvature: see :func:`estimate_influence`.
        measure: ``"loss"`` or ``"soft_error"``.
        damping: λ as a share of each layer's mean eigenvalue.
        folds: number of parts of the validation set for cross-fitting. With fewer than 3, nothing can be proven.
        budget: share of the training mass that may move, see :func:`check_pareto`. :func:`reweight` uses the same share
            by default.
        level: significance level of the verdict's test.
        targets: categories that have to gain, by name or number; all by default. See :func:`check_pareto`.
        floors: least relative gain of the others: one number, K, or some by name as ``{"shirt": -0.02}``.
        layers: use only parameters whose names match one of these shell patterns, for instance ``["head.*"]``. A
            pattern that starts with ``!`` leaves parameters out: ``["!embedding.weight"]`` uses everything else.
        fisher: see :func:`estimate_influence`.
        curvature_samples: number of random training samples that the curvature is fitted to; None for all.
        max_memory: bound in GiB, see :func:`estimate_influence`.
        checkpoint: compute influence at the ``"best"`` weights by a monitoring ModelCheckpoint if there is one, at the
            ``"last"`` weights, or averaged over all that the ModelCheckpoint has ``"kept"`` or over a list of
            checkpoint files.
        train_dataloader: read the training samples from this loader instead of the trainer's, for instance one without
            augmentation. Its dataset must have the same indices.
        val_dataloader_idx: which of several validation loaders to use.
        dirpath: folder for the results, which replaces results already there. By default ``pareto`` under the trainer's
            log directory, or ``pareto_1`` and so on if an earlier fit has left results there. If it is given, finished
            stages of the analysis are kept there until all are done.
        seed: seed of the Fisher labels and of the folds.
        preview: function of a training dataset's item returning a picture (tensor, array or PIL image) or a text, for
            the report's table of suspected samples. Pictures and texts in the items are found without it.
        analyse: compute influence and verdict after the fit. False only logs metrics, as for a second fit.
        metrics: what to log for every class: any of ``"accuracy"`` (which is the recall), ``"precision"``, ``"recall"``
            and ``"f1"``, or a mapping from names to these or to torchmetrics with ``average=None`` that take logits:
            ``{"accuracy": "accuracy", "specificity": MulticlassSpecificity(num_classes=4, average=None)}``.
        prefix: how the names of metrics by class and category begin. Another one keeps two callbacks, or the module's
            own names, apart.
        log_figures: show figures, a table of the classes and the report in the loggers after the fit. TensorBoard,
            Weights & Biases and MLflow show them; other loggers with a folder for the run get files. Figures need
            ``pip install 'lightning_pareto[report]'`` and are left out without it.
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
        budget: float = DEFAULT_BUDGET,
        level: float = DEFAULT_LEVEL,
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
        prefix: str = "val_",
        log_figures: bool = True,
        verbose: bool = True,
    ) -> None:
        self._arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        data = DataSource(
            task=task or ClassificationTask(),
            class_names=class_names,
            categories=categories,
            category_names=category_names,
            train_dataloader=train_dataloader,
            val_dataloader_idx=val_dataloader_idx,
            preview=preview,
        )
        super().__init__(data)
        self.classwise = ClasswiseLog(data, metrics, prefix)
        influence = InfluenceOptions(
            curvature=curvature,
            measure=measure,
            damping=damping,
            folds=folds,
            seed=seed,
            layers=layers,
            fisher=fisher,
            curvature_samples=curvature_samples,
        )
        self.options = AnalysisOptions(influence=influence, checkpoint=checkpoint, max_memory=max_memory)
        self.question = Question(budget=budget, level=level, targets=targets, floors=floors)
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.analyse, self.log_figures, self.verbose = analyse, log_figures, verbose
        self.results_folder: ResultsFolder | None = None  # of the current fit
        self._trained = False
        self._earlier_checkpoints: dict[str, int | None] = {}
        self._category_names: Sequence[str] | None = None
        self._last_fit = LastFit()
        self._losses = LossComparison(data.task)
        self._warned: set[str] = set()  # what the checks before the fit said

    @property
    def influence(self) -> InfluenceMatrix:
        """The influence matrix of the last fit.

        Raises:
            RuntimeError: if there is none, with the error that prevented it.
        """
        return self._last_fit.influence

    @property
    def verdict(self) -> ParetoVerdict:
        """The verdict of the last fit. Errors are those of :attr:`influence`."""
        return self._last_fit.verdict

    @property
    def analysis(self) -> Analysis:
        """Influence, verdict and what was measured in the last fit. Errors are those of :attr:`influence`."""
        return self._last_fit.analysis

    def consumer(self, trainer: pl.Trainer) -> ClasswiseMetrics | None:
        """See :class:`ValidationCallback`; None if the trainer is barebones and would log nothing."""
        return None if getattr(trainer, "barebones", False) else self.classwise.metrics(trainer)

    def on_collected(self, trainer: pl.Trainer, module: pl.LightningModule, consumer: ClasswiseMetrics) -> None:
        """Log metrics by class and category."""
        self.classwise.log(trainer, module, consumer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse names that somebody else has logged, too."""
        self.classwise.check_names(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Any) -> None:
        """Save the class-wise values of the last validation. A state_dict() would have to be read by every process."""
        checkpoint.setdefault(KEPT, {})[self.data.val_dataloader_idx] = self.classwise.state

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Any) -> None:
        """Continue from the values in the checkpoint."""
        self.classwise.state = checkpoint.get(KEPT, {}).get(self.data.val_dataloader_idx, {})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the previous fit, and refuse a strategy under which the analysis cannot run.

        If the trainer has reached the end of its fit before, nothing will be trained, and the results stay.
        """
        if stage == "fit" and not resumption.was_trained_before(trainer):
            self._begin_fit(trainer)

    def _begin_fit(self, trainer: pl.Trainer) -> None:
        ClasswiseLog.check_prefixes([one.classwise for one in trainer.callbacks if isinstance(one, ParetoCallback)])  # type: ignore[attr-defined]
        self.classwise.begin_fit()
        self._losses.begin_fit()
        self._trained, self.results_folder, self._earlier_checkpoints = False, None, {}
        self._warned.clear()
        self._last_fit.begin_fit(first=trainer.local_rank == 0)
        if self._wanted(trainer):
            checks.check_strategy(trainer, otherwise=", or ParetoCallback(analyse=False)")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check data, labels and callbacks before any training."""
        self._trained = True
        self._earlier_checkpoints = checkpoints_of_earlier_fits(trainer)
        if self._wanted(trainer):
            with unchanged(self.data.train(trainer).dataset, getattr(self.data.watched(trainer), "dataset", None)):
                self._prepare(trainer, pl_module)
                with once(self._warned):
                    rehearse(trainer, pl_module, self.data, self.options, self._category_names, self._say)
            checks.warn_of_averaging(trainer, self, self.options.checkpoint)
            checks.warn_of_untrained(trainer, pl_module, self.options.influence.layers)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look for lost samples, and compute the loss of an epoch's first batch to compare it with that of the step."""
        if trainer.current_epoch == 0 and self._wanted(trainer):
            checks.check_size(trainer, self.data, batch)
        if batch_idx == 0 and self._wanted(trainer):
            self._losses.begin_batch(trainer, pl_module, batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Compare the gradients of both."""
        self._losses.before_backward(loss)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the values where there are no gradients."""
        if batch_idx == 0:
            self._losses.end_batch(trainer, outputs)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        super().on_exception(trainer, pl_module, exception)
        self._losses.stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute, keep, print and log the results. An error becomes a warning."""
        if self._wanted(trainer) and not trainer.interrupted:
            self._losses.warn()
            self._analyse(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same if the fit was already finished, so that Lightning skipped its training."""
        if self._wanted(trainer) and not self._trained and resumption.fit_was_skipped(trainer):
            checks.warn_of_missing_average(trainer)
            with resumption.back_on_device(trainer, pl_module):
                self._prepare(trainer, pl_module)
                self._analyse(trainer, pl_module)

    def for_another_model(self, **options: Any) -> "ParetoCallback":
        """A callback with the same options, except for those given, and without results."""
        twin = copy.copy(self)
        if options:
            ParetoCallback.__init__(twin, **{**self._arguments, **options})
        own = {"_last_fit": LastFit(), "_warned": set(), "_losses": LossComparison(self.data.task)}
        vars(twin).update(own, classwise=copy.copy(self.classwise))
        return twin

    def analyse_now(self, trainer: pl.Trainer, module: pl.LightningModule) -> Path | None:
        """Analyse a model within a trainer that has set up its data, without a fit. Errors are raised at once.

        Returns:
            The folder of the results on rank zero; None if they could not be written.
        """
        self._begin_fit(trainer)
        checks.check_strategy(trainer)
        self._prepare(trainer, module)
        self._losses.compare_now(trainer, module, self.data)
        self._influence_and_verdict(trainer, module)
        return self.written_to

    @property
    def written_to(self) -> Path | None:
        """Folder of the last fit's results; None if there are none on disk."""
        return self._last_fit.folder

    def _prepare(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.results_folder = prepare_results_folder(trainer, module, self.dirpath, (INFLUENCE_FILE, VERDICT_FILE))
        if self.options.influence.folds < LEAST_FOLDS:
            rank_zero_warn(f"folds={self.options.influence.folds}: {NO_FOLDS}")
        self._category_names = checks.check_data(trainer, module, self.data, self.options.influence.layers)
        if self._category_names is not None:
            chosen_categories(self._category_names, self.question.targets)
            per_category(self.question.floors, self._category_names, 0.0, "floors")

    def _analyse(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        try:
            self._influence_and_verdict(trainer, module)
        except (KeyboardInterrupt, SIGTERMException):
            if trainer.is_global_zero:
                self._say(f"\n{resumption.how_to_resume(trainer, self.dirpath)}\n")
            raise
        except Exception as error:
            self._last_fit.keep_error(error)
            if trainer.is_global_zero or not isinstance(error, OtherProcessError):
                warn(f"ParetoCallback failed after the fit. The trained model is kept: {error}")

    def _influence_and_verdict(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        measured: list[tuple[Outcome | None, Outcome | None]] = []
        with once(self._warned):
            influence = influence_of(
                trainer,
                module,
                self.data,
                self.options,
                category_names=self._category_names,
                folder=self.dirpath,
                say=self._say,
                metadata=self.question.metadata,
                earlier=self._earlier_checkpoints,
                then=lambda estimated: measured.append(measure_step(estimated, self.question)),
            )
        self._judge(trainer, influence, *(measured[-1] if measured else (None, None)))

    def _judge(
        self, trainer: pl.Trainer, influence: InfluenceMatrix, outcome: Outcome | None, after_step: Outcome | None
    ) -> None:
        """Keep the influence before anything else happens to it. Then reach a verdict, keep, print and log it."""
        assert self.results_folder is not None
        first = trainer.is_global_zero
        folder = self.results_folder.choose(trainer, lambda found: not contains_results(found, (RECORD_FILE,)))
        self._last_fit.keep_influence(influence)
        saved = first and save_influence(influence, folder)
        if saved:
            self._last_fit.announce(folder)
        verdict = verdict_on(influence, self.question, folder if saved else None)
        analysis = Analysis(influence, verdict, folder if saved else None, outcome, after_step)
        self._last_fit.keep_analysis(analysis)
        if saved:
            saved = save_analysis(analysis, folder)
            resumption.remove_stages(folder)
        if saved:
            save_previews(trainer, self.data, influence, folder)
        if first:
            where = f"Influence and verdict: {printable_line(str(folder))}" if saved else ""
            self._say(f"\n{analysis}\n\n{where}\n")
        failed = log_verdict(trainer, verdict)
        if first and self.log_figures:
            show_verdict(trainer, verdict, folder, failed)

    def _wanted(self, trainer: pl.Trainer) -> bool:
        return self.analyse and not getattr(trainer, "fast_dev_run", False)

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)  # noqa: T201
