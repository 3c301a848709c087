"""Searches for weights that make a better model, and returns nothing worse than an ordinary fit."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_pareto.candidates.evidence import Candidate, Propose
from lightning_pareto.evaluation.change import Tolerance
from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.datamodule import ReweightedDataModule
from lightning_pareto.integration.output.results_folder import why_not_writable
from lightning_pareto.integration.trainer.namespaces import counterpart, is_a
from lightning_pareto.integration.tuner.final_fits import FinalFits
from lightning_pareto.integration.tuner.judge import Judge, Tried, epochs_for, with_validation
from lightning_pareto.integration.tuner.messages import TrialLog, next_step
from lightning_pareto.integration.tuner.options import KINDS, Epochs, Mode, Refit, SearchName, TuningOptions
from lightning_pareto.integration.tuner.project import Project
from lightning_pareto.integration.tuner.search import Finalist, candidates_for, find_weights
from lightning_pareto.integration.tuner.search_folder import TRIALS, finish
from lightning_pareto.integration.tuner.starting_model import find_starting_model, situation_of
from lightning_pareto.integration.tuner.trainer_factory import TrainerFactory
from lightning_pareto.integration.tuner.trials import Trials
from lightning_pareto.pareto.demand import Targets
from lightning_pareto.pareto.verdict import ParetoVerdict, check_pareto
from lightning_pareto.pareto.wording import evidence, headline
from lightning_pareto.storage.run_folders import RESULT_FILE


class ParetoTuner:
    """Searches for a better model, and never returns one that is measurably worse.

    It makes an ordinary fit (or takes a checkpoint of one) and estimates influence at its best epoch by validation.
    First it tries candidates that need no other fit: a few steps on the weighted training loss, and a refitted last
    layer. Then it makes fits with weights that keep the masses of the classes, and if nothing is accepted so far, with
    weights that also raise weak classes. It makes no second fit with weights whose first one falls behind, or harms a
    category. The best of all that is accepted is returned.

    Weights fit the validation samples that they are made from. Measured on those, a second fit on Fashion-MNIST gained
    2.5 points where it gained 1 on test images. So weights and candidates are made from one half of the validation set
    and models are compared on the other, both ways round.

    A model is accepted only if no category falls beyond chance, and if it is better beyond chance for the
    number of fits looked at. *Better* means: in the mean accuracy over the categories (by one standard error if the
    verdict is *yes* already), or in some category while the mean does not fall. Otherwise the ordinary model is
    returned.

    Every trial is a fit of a new Trainer on a copy of the model, with the same seed. So it works with whatever strategy
    the Trainer has, and ordinary and reweighted fits differ only in the weights and the order of the samples. A
    generator that the DataModule owns continues from trial to trial, and then they differ in that too. Trials log (to
    CSV, or to TensorBoard if the Trainer does) and keep checkpoints in ``dirpath`` only.

    A search that was killed resumes after its last finished trial when it is started again. A search that has ended
    starts over. A folder belongs to one search: use another folder for other data.

    ``search="genetic"`` with ``refit="epoch"`` is PARETO-LP-GA as published: the paper's LP, a genetic algorithm over
    its thresholds, and the weighted epoch itself as the result. ``mode="course_correction"`` reruns the last epoch: the
    targets are the categories that fell in it, and the ordinary epoch has to be beaten.

    Do not trust the last digit of the result's validation accuracies: the same samples have chosen it.

    Args:
        trainer_factory: makes a new Trainer, as for an ordinary fit. Its ``max_epochs`` is that of every complete fit.
            Its callbacks take part in every trial, except for checkpoints and callbacks of this package. Early stopping
            only takes part in complete fits.
        mode: compare with the epoch before (``"direct"``), or with the ordinary next epoch (``"course_correction"``).
        targets: categories to raise, by name or number. By default all for ``"mass_preserving"``, those below the mean
            accuracy for a direct genetic search, and those that fell for a course correction.
        search: ``"mass_preserving"`` weights, at first within the classes, then with more weight for weak classes, or a
            ``"genetic"`` search over the thresholds of the paper's LP, in trials of one epoch.
        refit: what is compared at the end: fits from ``"scratch"``, fits that ``"continue"`` at the best weights with a
            new optimizer, or the weighted ``"epoch"`` itself. By default from scratch with mass-preserving weights,
            otherwise the epoch.
        max_epochs_spent: largest number of epochs of all trials together, including the first fit. By default five
            whole fits, eight with ``include_validation``, and two more for each candidate that may propose weights.
            Mostly one to three are spent. Influence costs four to ten more epochs, and tens for MLPs.
        budget: share of the training mass that mass-preserving weights may move.
        max_weight: largest weight of the paper's LP.
        epsilon: least rise of every target in the fitness of a genetic search.
        population: number of thresholds in a generation.
        level: significance level of the tests that accept a model.
        tolerance: accuracy in [0, 1) that categories may lose, one number or by name, such as ``{"dog": 0.02}``. One is
            harmed if it falls by more than that, beyond chance.
        include_validation: also train on the validation data. Before the choice, each fit trains on the half that its
            weights are made from and is measured on the other half. Afterwards the chosen fit is repeated on all of
            them, with weights made from all of them. This was better wherever it was measured, but nothing is left that
            could measure the last model itself. A learning rate schedule that watches a validation metric sees training
            data in that last fit. A warning says so before the first fit.
        candidates: what to try before these weights, see :class:`Candidate`. Each is made from one half of the
            validation set and measured on the other, both ways round. If it proposes weights, they get fits. A function
            that takes an :class:`Evidence` and returns new values of parameters, or weights, serves as well. By
            default, a direct search for mass-preserving weights tries ``WeightedSteps()``, ``HeadRefit()`` and both in
            turn. Each takes a few passes over the data, which is several times a fit of a very small model.
        callback: how batches are read and influence is estimated; ``ParetoCallback()`` by default. Its ``budget`` is
            that of the verdict.
        dirpath: folder of all trials, which every process must see. By default ``pareto_tuner`` in the Trainer's
            ``default_root_dir``.
        fingerprint: any text that changes when something changes that the tuner cannot see: the code of ``categories``,
            the model or the data. A search resumes only under the same fingerprint.
        seed: seed of all trials and of the search.
        verbose: print a line for every trial, and the result.

    Attributes:
        verdict: verdict on the first fit; None before ``fit``.
        influence: influence on the first fit; None before ``fit``.

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
        search: SearchName = "mass_preserving",
        refit: Refit | None = None,
        max_epochs_spent: int | None = None,
        budget: float = 0.3,
        max_weight: float = 2.0,
        epsilon: float = 0.0,
        population: int = 8,
        level: float = 0.05,
        tolerance: Tolerance = 0.0,
        include_validation: bool = False,
        candidates: Sequence[Candidate | Propose] | None = None,
        callback: ParetoCallback | None = None,
        dirpath: str | Path | None = None,
        fingerprint: str = "",
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        self.options = TuningOptions(
            mode=mode,
            targets=targets,
            search=search,
            refit=refit,
            max_epochs_spent=max_epochs_spent,
            budget=budget,
            max_weight=max_weight,
            epsilon=epsilon,
            population=population,
            level=level,
            tolerance=tolerance,
            include_validation=include_validation,
            candidates=candidates,
            seed=seed,
        )
        if not callable(trainer_factory):
            raise TypeError(
                f"trainer_factory must be a function that makes a Trainer, found {type(trainer_factory).__name__}. For "
                "instance: lambda: pl.Trainer(max_epochs=10)"
            )
        self.verdict: ParetoVerdict | None = None
        self.influence: InfluenceMatrix | None = None
        self._factory = trainer_factory
        self._callback = callback or ParetoCallback()
        if self._callback.options.influence.folds < 2:
            raise ValueError("the tuner splits the validation set: ParetoCallback(folds=8)")
        self._dirpath = dirpath
        self._fingerprint = fingerprint
        self._verbose = verbose

    def fit(
        self, model: pl.LightningModule, datamodule: pl.LightningDataModule, ckpt_path: str | Path | None = None
    ) -> ParetoResult:
        """Search, choose, and load the weights of the chosen fit into ``model``.

        Args:
            model: how every fit from scratch begins. It ends with the weights of the chosen fit.
            datamodule: the data. A random split in its ``setup`` must be seeded, since every trial calls it.
            ckpt_path: a checkpoint of an ordinary fit of this model to start from. By default the tuner makes the
                ordinary fit.

        Returns:
            The result. Its ``ckpt_path`` is the checkpoint of the chosen fit.

        Raises:
            OSError: if ``dirpath`` cannot be written.
            TypeError: for anything but a LightningModule and a LightningDataModule with the loaders, or if the factory
                does not make new Trainers.
            ValueError: if ``max_epochs_spent`` is too small for a first fit and two second ones, or from the checks
                that :class:`ParetoCallback` makes before a fit.
        """
        _check_kinds(model, datamodule)
        _check_loaders(datamodule, self.options.include_validation)
        options, checkpoint = self.options, None if ckpt_path is None else Path(ckpt_path).resolve()
        root = TrainerFactory(self._factory)().default_root_dir
        folder = Path(root, "pareto_tuner") if self._dirpath is None else Path(self._dirpath)
        reason = why_not_writable(folder)
        if reason:
            raise OSError(f"trials cannot be written to dirpath={str(folder)!r}: {reason}. Give another folder")
        project = Project(
            trainer_factory=self._factory,
            module=model,
            datamodule=datamodule,
            callback=self._callback,
            seed=options.seed,
            targets=options.targets,
            tolerance=options.tolerance,
            include_validation=options.include_validation,
            fingerprint=self._fingerprint,
        )
        trials = Trials(project, folder / TRIALS)
        epochs = options.divide(int(trials.factory().max_epochs or 0), checkpoint is not None)
        trials.log = log = TrialLog(self._verbose, epochs.limit)
        if (folder / RESULT_FILE).exists():
            log.say(f"The finished search in {folder} starts over, and its result will be replaced.")
        if trials.resumed:
            log.say(f"Resuming the interrupted search in {trials.folder}.")
        with log.advice_on_interruption(trials.folder):
            result, verdict = self._search(trials, checkpoint, epochs, log)
        result = finish(folder, result, verdict)
        model.load_state_dict(torch.load(result.ckpt_path, map_location="cpu", weights_only=True)["state_dict"])
        log.say(f"\n{result}\n\n{next_step(result, verdict, options.include_validation)}\n")
        return result

    def _search(
        self, trials: Trials, checkpoint: Path | None, epochs: Epochs, log: TrialLog
    ) -> tuple[ParetoResult, ParetoVerdict]:
        """Make all fits, and choose."""
        options, question = self.options, self._callback.question
        start = find_starting_model(trials, options, checkpoint)
        self.influence = start.influence
        self.verdict = verdict = check_pareto(self.influence, budget=question.budget, level=question.level)
        log.say("\n".join(["", headline(verdict), *evidence(verdict), ""]))
        situation = situation_of(trials, options, start, self._callback)
        fits = FinalFits(trials, options, start, situation)
        ordinary = fits.ordinary()
        joined = fits.joined() if options.include_validation else None
        everything = trials.finished.values()
        choose = functools.partial(
            Judge(level=options.level, improvable=verdict.improvable, tolerance=options.tolerance).choose,
            start.given,
            ordinary,
            trials=everything,
            joined=joined,
            planned=len(options.cheap) + KINDS,
        )
        covered = all((situation.targets & half.influence.present).any() for half in situation.halves)
        proposed = [fits.proposed(one) for one in candidates_for(options, situation)] if covered else []
        tried = [one for one in proposed if isinstance(one, Tried)]
        kinds = [one for one in proposed if isinstance(one, Finalist)]
        left = epochs.left(trials.epochs_spent) - len(kinds) * epochs.fits
        if covered and left >= 0 and (situation.chosen or verdict.answer != "no"):
            kinds += find_weights(options, situation, trials, left)
        for finalist in kinds:
            needed = not finalist.last_resort or choose(tried)[1] in (None, joined)
            if needed and epochs.left(trials.epochs_spent) >= 0:
                tried.append(fits.tried(finalist, None if joined else ordinary))
        result, chosen = choose(tried)
        if options.include_validation and chosen is not None:
            fitted = chosen.finalist.candidate is None
            length = epochs_for([ordinary, *chosen.results]) if fitted else start.given.best_epoch
            last = fits.last(length, chosen.finalist)
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
    """Refuse loaders that only the LightningModule defines, since trials could not change them."""
    uses = {"train_dataloader": "weights go into", "val_dataloader": "include_validation=True takes samples from"}
    for name in ("train_dataloader", "val_dataloader")[: 1 + include_validation]:
        if not is_overridden(name, datamodule, counterpart(pl.LightningDataModule, datamodule)):
            raise TypeError(
                f"{uses[name]} the {name}() of the DataModule, but {type(datamodule).__name__} has none: move the one "
                "of the LightningModule there"
            )
