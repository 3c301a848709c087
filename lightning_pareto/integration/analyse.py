"""Influence and verdict of a trained model, without a fit."""

import functools
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lightning_pareto.integration.callback import ParetoCallback
from lightning_pareto.integration.trainer.internals import keeping_gradients, only, running_instead_of_training
from lightning_pareto.integration.trainer.namespaces import counterpart, is_a
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.report.analysis import Analysis
from lightning_pareto.report.html.page import write_report


def analyse(
    model: pl.LightningModule,
    datamodule: pl.LightningDataModule | None = None,
    trainer: pl.Trainer | None = None,
    *,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    ckpt_path: str | Path | None = None,
    **options: Any,
) -> Analysis:
    """Compute influence, verdict and report of a trained model. Nothing is trained.

    It works as after a fit with :class:`ParetoCallback`: on as many processes and in the precision that the trainer
    has, with results in the trainer's log directory. Loggers get the verdict. The trainer's other callbacks take no
    part, and the model keeps its weights.

    Args:
        model: the trained model.
        datamodule: its data, with the training set of the fit; None if the module defines the loaders. Its ``setup`` is
            called again, so a random split must be seeded, or validation samples will be some that were trained on.
        trainer: runs the analysis. By default a Trainer with one device and no logger, which leaves the results in
            ``pareto`` in the working directory.
        train_dataloaders: the loader of the training samples, instead of a DataModule.
        val_dataloaders: one or several loaders of validation samples, likewise.
        ckpt_path: a checkpoint of the model to load for the analysis; None for the weights that it has.
        options: options of :class:`ParetoCallback`. Those that are not given are those of the trainer's own
            ParetoCallback, if it has one.

    Returns:
        Influence, verdict and what was measured. The report is ``report.html`` in their folder, if its extra is
        installed.

    Raises:
        ValueError: if the checkpoint cannot be loaded.
        TypeError: for arguments in the wrong place, or options that there are not.
        Exception: whatever the checks before a fit or the analysis raise.

    Example:
        >>> trainer = pl.Trainer(logger=False, accelerator="cpu")

        Then ``analysis = analyse(model, datamodule, trainer, ckpt_path="best.ckpt", budget=0.3)`` has ``.verdict`` and
        ``.influence``, and ``reweight(analysis.influence)`` makes weights for a second fit.
    """
    loaders = {"train_dataloaders": train_dataloaders, "val_dataloaders": val_dataloaders}
    _check_arguments(datamodule, trainer, loaders, options)
    if trainer is None:
        quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
        trainer = counterpart(pl.Trainer, model)(devices=1, max_epochs=1, log_every_n_steps=1, **quiet)
    callback = _callback(trainer, ckpt_path, options)
    work = functools.partial(_run, trainer, callback)
    with keeping_gradients(model), only(trainer, callback), running_instead_of_training(trainer, work):
        trainer.fit(model, datamodule=datamodule, **loaders)
    return callback.analysis


def _check_arguments(datamodule: Any, trainer: Any, loaders: dict[str, Any], options: dict[str, Any]) -> None:
    """Refuse what is in the wrong place before Lightning fails on it."""
    given = [name for name, loader in loaders.items() if loader is not None]
    if datamodule is not None and not is_a(datamodule, pl.LightningDataModule):
        raise TypeError(
            f"datamodule must be a LightningDataModule, found {type(datamodule).__name__}. Pass loaders and trainers "
            "by name: analyse(model, train_dataloaders=…, val_dataloaders=…, trainer=…)"
        )
    if trainer is not None and not is_a(trainer, pl.Trainer):
        raise TypeError(f"trainer must be a Trainer, found {type(trainer).__name__}: analyse(model, trainer=…)")
    if datamodule is not None and given:
        raise TypeError(f"datamodule and {given[0]} are both given: pass either a DataModule or loaders")
    unknown = sorted(options.keys() - inspect.signature(ParetoCallback).parameters.keys())
    if unknown:
        raise TypeError(
            f"analyse has no argument {unknown[0]!r}. Besides its own it takes the options of ParetoCallback: "
            f"{', '.join(inspect.signature(ParetoCallback).parameters)}"
        )


def _callback(trainer: pl.Trainer, ckpt_path: str | Path | None, options: dict[str, Any]) -> ParetoCallback:
    """The callback whose options are used, with the checkpoint instead of its own choice of weights."""
    own = [each for each in trainer.callbacks if isinstance(each, ParetoCallback)]  # type: ignore[attr-defined]
    callback = own[0].for_another_model(**options) if own else ParetoCallback(**options)
    if ckpt_path is None:
        return callback
    if "checkpoint" in options:
        raise ValueError("ckpt_path and checkpoint both choose the weights: pass one of them")
    if not Path(ckpt_path).is_file():
        raise ValueError(f"ckpt_path must be a checkpoint file, found {str(ckpt_path)!r}, which does not exist")
    callback.options = replace(callback.options, checkpoint=[ckpt_path], required=True)
    return callback


def _run(trainer: pl.Trainer, callback: ParetoCallback) -> None:
    """Analyse in the process that the strategy has started, and write the report."""
    folder = callback.analyse_now(trainer, trainer.lightning_module)
    if folder is None or not trainer.is_global_zero:
        return
    try:
        write_report(folder)
    except ImportError as error:
        rank_zero_info(f"no report was written: {error}")
    except OSError as error:
        rank_zero_warn(f"the report could not be written: {error}")
