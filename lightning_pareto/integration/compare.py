"""Compares two models on the same validation samples."""

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from lightning_pareto.arguments import checked_number
from lightning_pareto.evaluation.change import ClasswiseChange, Tolerance, tolerance_of
from lightning_pareto.evaluation.outcome import FILE_SUFFIX, Outcome
from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.analysis.checkpoints import weights_of
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.internals import keeping_gradients, only, running_instead_of_validation
from lightning_pareto.integration.trainer.namespaces import counterpart, is_a
from lightning_pareto.integration.trainer.processes import shard_of
from lightning_pareto.integration.validation.outcomes import measure_outcome

Compared = pl.LightningModule | Outcome | str | Path
"""A trained model, its checkpoint, or its predictions, perhaps in a file."""


def compare_models(
    before: Compared,
    after: Compared,
    val_dataloader: Any = None,
    *,
    model: pl.LightningModule | None = None,
    trainer: pl.Trainer | None = None,
    level: float = 0.05,
    tolerance: Tolerance = 0.0,
    task: ClassificationTask | None = None,
    class_names: Sequence[str] | None = None,
    categories: Categories | None = None,
    category_names: Sequence[str] | None = None,
) -> ClasswiseChange:
    """Find out whether any class fell beyond chance from one model to another, and whether the mean rose.

    Both models predict the same validation samples, in evaluation mode. No model is changed or trained. Use samples
    that have chosen neither of them.

    Args:
        before: the model to compare with: a LightningModule, a checkpoint or a saved ``state_dict()``, an
            :class:`Outcome`, or a file that ``Outcome.save`` has written (``.safetensors``).
        after: the model in question, likewise.
        val_dataloader: the validation samples, as a DataLoader or as a LightningDataModule that has them. Not needed
            for two outcomes.
        model: the LightningModule into which checkpoints are loaded. By default, the other model if it is one.
        trainer: predicts. By default a Trainer with one device and no logger. On several processes, each takes a share.
        level: level of the tests.
        tolerance: accuracy in [0, 1) that each class may lose: one number, K numbers, or some by name. The mean
            may lose their mean, that of all K classes.
        task: how a batch is read; see :class:`ClassificationTask`.
        class_names: names of the classes, by default those of the dataset.
        categories: how validation samples are grouped; by default by label. See :class:`ParetoCallback`.
        category_names: names of the categories.

    Returns:
        The change, which prints itself. Its ``answer`` is in one word.

    Raises:
        TypeError: for anything else than a model, or if there are no validation samples.
        ValueError: if a file cannot be read, the models were measured on different samples, or an option is out of
            range.
        BatchError: if a batch or the logits cannot be read.

    Example:
        >>> labels = [0] * 50 + [1] * 50
        >>> before = Outcome.of(labels, [0] * 80 + [1] * 20, ["cat", "dog"])
        >>> after = Outcome.of(labels, [0] * 30 + [1] * 70, ["cat", "dog"])
        >>> print(compare_models(before, after).headline)
        A trade-off: dog rises beyond chance, but cat falls beyond chance.

        Models are compared by ``compare_models(model, "second.ckpt", datamodule)``.
    """
    checked_number(level, "level must be between 0 and 1", lambda value: 0 < value < 1)
    source = DataSource(
        task=task or ClassificationTask(),
        class_names=class_names,
        categories=categories,
        category_names=category_names,
        owner="compare_models",
    )
    modules = [each for each in (model, before, after) if is_a(each, pl.LightningModule)]
    found = [_found(each, modules[0] if modules else None, val_dataloader) for each in (before, after)]
    named = class_names if categories is None else category_names
    for each in found:  # before a long prediction
        tolerance_of(tolerance, each.category_names if isinstance(each, Outcome) else named)
    outcomes: list[Outcome] = []
    for each in found:
        outcomes.append(each if isinstance(each, Outcome) else _predicted(*each, val_dataloader, trainer, source))
        tolerance_of(tolerance, outcomes[0].category_names)
    return ClasswiseChange(outcomes[0], outcomes[1], level=level, tolerance=tolerance)


def _found(
    which: Any, module: pl.LightningModule | None, data: Any
) -> Outcome | tuple[pl.LightningModule | None, str | None]:
    """The outcome, if there is one, or the model to predict with and its checkpoint."""
    if isinstance(which, Outcome):
        return which
    checkpoint = None
    if isinstance(which, str | Path):
        if not Path(which).is_file():
            raise ValueError(f"expected a checkpoint or a file of predictions, found {str(which)!r}, which is no file")
        if Path(which).suffix == FILE_SUFFIX:
            return Outcome.load(which)
        checkpoint = str(which)
        if module is None:
            raise TypeError(f"{which} is a checkpoint: pass model=…, the LightningModule that it belongs to")
    elif is_a(which, pl.LightningModule):
        module = which
    else:
        raise TypeError(
            f"expected a LightningModule, a checkpoint, an Outcome or its file, found {type(which).__name__}. For "
            "predictions of your own: Outcome.of(labels, predictions, class_names)"
        )
    if data is None:
        raise TypeError("pass the validation samples to predict: compare_models(before, after, val_dataloader)")
    return module, checkpoint


def _predicted(
    module: Any, checkpoint: str | None, data: Any, trainer: pl.Trainer | None, source: DataSource
) -> Outcome:
    """Let the trainer predict the validation samples, in processes of its own if its strategy starts some."""
    if trainer is None:
        quiet: dict[str, Any] = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False
        )
        trainer = counterpart(pl.Trainer, module)(devices=1, **quiet)
    source_of_data = {"datamodule" if is_a(data, pl.LightningDataModule) else "dataloaders": data}
    with tempfile.TemporaryDirectory() as folder:
        path, here = Path(folder, f"outcome{FILE_SUFFIX}"), list[Outcome]()
        work = functools.partial(_measure, trainer, checkpoint, source, path, here)
        with keeping_gradients(module), only(trainer), running_instead_of_validation(trainer, work):
            trainer.validate(module, verbose=False, **source_of_data)
        return here[0] if here else Outcome.load(path)  # spawned processes leave only the file


def _measure(trainer: pl.Trainer, checkpoint: str | None, source: DataSource, path: Path, here: list[Outcome]) -> None:
    module = trainer.lightning_module
    with weights_of(module, checkpoint, shard_of(trainer, module), required=True):
        outcome = measure_outcome(trainer, module, source)
    here.append(outcome)
    if trainer.is_global_zero:
        outcome.save(path)
