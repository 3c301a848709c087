"""Checks before the first training step: whatever would make the analysis fail or mislead."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.xla import XLAStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lightning_pareto.arguments import checked_names
from lightning_pareto.data.labels import first_label_out_of_range, stored_classes
from lightning_pareto.data.loaders import read_batches, refuse_part, samples_chosen, together
from lightning_pareto.data.overlap import refuse_overlap
from lightning_pareto.display.terminal import listed
from lightning_pareto.influence.categories import Categories, read_categories
from lightning_pareto.influence.layers import patterns_without, select_layers
from lightning_pareto.influence.sample_checks import check_loss
from lightning_pareto.influence.task import BatchError
from lightning_pareto.integration.analysis.checkpoints import Checkpoint, monitoring_checkpoint
from lightning_pareto.integration.trainer.batches import read_only, transfer_of, validating
from lightning_pareto.integration.trainer.data_source import DataSource, validation_loaders
from lightning_pareto.integration.trainer.internals import own_sampler, set_up_validation
from lightning_pareto.integration.trainer.namespaces import is_a
from lightning_pareto.integration.trainer.processes import rank_zero_warn, shard_of

SAMPLES_TRIED = 16
"""Samples that are read together before the fit, at most a batch. Two may look alike by chance."""

_AVERAGING = tuple(  # WeightAveraging came with Lightning 2.6
    getattr(callbacks, name) for name in ("StochasticWeightAveraging", "WeightAveraging") if hasattr(callbacks, name)
)

_KNOWN = ("torch", "lightning", "lightning_pareto", "pytorch_lightning")
"""Packages whose samplers need no reading ahead."""


def check_strategy(trainer: pl.Trainer, callback: str = "ParetoCallback", otherwise: str = "") -> None:
    """Refuse a strategy under which no process holds the whole model.

    Args:
        trainer: before its fit.
        callback: who needs the whole model.
        otherwise: what else can be done, appended to the error.

    Raises:
        TypeError: if the model is spread over the devices, or ``torch.distributed`` does not connect them.
    """
    whole = is_a(trainer.strategy, SingleDeviceStrategy, DDPStrategy)
    if not whole or is_a(trainer.strategy, DeepSpeedStrategy, XLAStrategy):  # subclasses of DDPStrategy
        raise TypeError(
            f"{callback} needs the whole model on every device and torch.distributed between them, which "
            f'{type(trainer.strategy).__name__} does not offer: use strategy="ddp" or a single device{otherwise}'
        )


def check_data(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: DataSource,
    layers: Sequence[str] | None,
    *,
    joined: bool = False,
) -> Sequence[str] | None:
    """Try a few samples, without a trace in any random state. Every process has to call it, and all fail if one does.

    Args:
        trainer: before its first training step.
        module: the module to be trained.
        data: the samples.
        layers: shell patterns of the parameters that influence covers.
        joined: whether the validation samples are meant to be trained on.

    Returns:
        The names of the categories; None for numbers.

    Raises:
        BatchError: if a batch cannot be read, or a stored label is out of range.
        ValueError: if there is no validation set, it shares samples with the training set, a dataset is empty,
            class names or categories do not fit, the loss mixes samples, or the module has no trainable parameter.
        TypeError: if the samples of a loader have no index.
        OtherProcessError: if another process found one of these.
    """
    with isolate_rng(), validating(trainer):
        set_up_validation(trainer)
    with shard_of(trainer, module).agreement("check before the fit"):
        select_layers(module, layers)
        train, validation = data.train(trainer), data.validation(trainer)
        _check_samplers(train, validation)
        with read_only(trainer, module):
            _check_samples(train, "training", _reader(trainer, module, data, 0))
            read = _reader(trainer, module, data, data.val_dataloader_idx, data.categories)
            classes = _check_samples(validation, "validation", read)
            _compare_loaders(trainer, data, train)
        if not joined:
            refuse_overlap(train.dataset, validation.dataset)
        if data.class_names is None:
            _compare_classes(train.dataset, validation.dataset, classes)
        names = data.names_of_classes(trainer, classes)
    loaders = validation_loaders(trainer)
    if data.val_dataloader_idx == 0 and len(loaders) > 1:
        rank_zero_info(f"{data.owner} reads the first of {len(loaders)} validation dataloaders (val_dataloader_idx=0)")
    return names if data.categories is None else data.category_names


def check_size(trainer: pl.Trainer, data: DataSource, batch: Any) -> None:
    """Refuse a training batch with fewer labels than samples drawn, which would make the analysis fail after the fit.

    Raises:
        ValueError: if the loader of the analysis is that of the fit, and the batch is not the last one.
    """
    loader = trainer.train_dataloader
    batches = loader.batch_sampler if isinstance(loader, DataLoader) else None
    if data.train_dataloader is not None or type(batches) is not BatchSampler or trainer.is_last_batch:
        return
    try:
        count = len(data.task.read_targets(copy.copy(batch)))
    except Exception:  # hooks may make anything of a training batch
        return
    if count < batches.batch_size:
        raise ValueError(
            f"a training batch has {count} labels for {batches.batch_size} samples. Influence needs one label per "
            "dataset index, so collate_fn must neither drop nor repeat samples. Leave bad samples out of the dataset: "
            "Subset(dataset, good_indices)"
        )


def warn_of_untrained(trainer: pl.Trainer, module: pl.LightningModule, layers: Sequence[str] | None) -> None:
    """Warn of parameters that influence covers, and that no optimizer changes."""
    trained = {id(p) for each in trainer.optimizers for group in each.param_groups for p in group["params"]}
    covered = {
        name: parameter
        for layer in select_layers(module, layers)
        for name, parameter in zip(layer.names, layer.parameters, strict=True)
    }
    idle = [name for name, p in covered.items() if id(p) not in trained]
    if trained and idle:
        advice = [*(layers or ()), *patterns_without(idle, covered.keys() - set(idle))]
        rank_zero_warn(
            f"no optimizer has {len(idle)} of the parameter tensors that influence covers ({listed(idle, 4)}). If "
            f"the logits depend on them, it is that of another fit: set requires_grad=False, or layers={advice}"
        )


def warn_of_averaging(trainer: pl.Trainer, callback: pl.Callback, checkpoint: Checkpoint) -> None:
    """Warn if the weights are averaged only after the analysis has read them."""
    if not isinstance(checkpoint, str) or (checkpoint != "last" and monitoring_checkpoint(trainer) is not None):
        return
    after = trainer.callbacks[trainer.callbacks.index(callback) + 1 :]  # type: ignore[attr-defined]
    for other in after:
        if is_a(other, *_AVERAGING):
            name = type(other).__name__
            rank_zero_warn(
                f"{name} comes after ParetoCallback and averages the weights at the end of the fit, so influence would "
                f"be computed before averaging. Put ParetoCallback after it: callbacks=[{name}(…), ParetoCallback(…)]"
            )


def warn_of_missing_average(trainer: pl.Trainer) -> None:
    """Warn if a fit that was skipped has not averaged the weights as it would have at its end."""
    if any(is_a(callback, callbacks.StochasticWeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        rank_zero_warn(
            "the fit was already finished, so StochasticWeightAveraging has averaged nothing this time: influence is "
            "computed at the weights of the checkpoint"
        )


def _reader(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: DataSource,
    dataloader_idx: int,
    categories: Categories | None = None,
) -> Callable[[Any], int]:
    """Function that reads a batch and returns its number of classes, or raises an error if it cannot be read."""
    transfer = transfer_of(trainer, module, dataloader_idx)

    def read(batch: Any) -> int:
        batch = transfer(batch)
        targets = data.task.read_targets(batch)
        logits = data.task.read_logits(module, batch, targets)
        check_loss(data.task.loss, logits, targets)
        if categories is not None:
            _check_categories(read_categories(categories, batch, targets), data.category_names)
        return int(logits.shape[1])

    return read


def _compare_loaders(trainer: pl.Trainer, data: DataSource, own: "DataLoader[Any]") -> None:
    """Refuse a training loader of the callback's own with other samples than the trainer's, by their labels."""
    fitted: Any = trainer.train_dataloader
    if data.train_dataloader is None or not isinstance(fitted, DataLoader) or fitted.batch_sampler is None:
        return
    size: int = len(own.dataset)  # type: ignore[arg-type]
    few = range(0, size, max(1, size // SAMPLES_TRIED))[:SAMPLES_TRIED]

    def labels(loader: "DataLoader[Any]") -> Tensor:
        return torch.cat([data.task.read_targets(batch) for batch in read_batches(loader, together(loader, few))])

    try:
        ours, theirs = labels(own), labels(fitted)
    except BatchError:  # the trainer's batches may be of another kind
        return
    if len(ours) == len(theirs) and not torch.equal(ours.cpu(), theirs.cpu()):
        index = few[int((ours.cpu() != theirs.cpu()).int().argmax())]
        raise ValueError(
            f"{data.owner}(train_dataloader=…) has other samples than the fit, or in another order: sample {index} has "
            "another label. Influence and weights belong to dataset indices, so both must have the same samples in the "
            "same order"
        )


def _compare_classes(train: Any, validation: Any, count: int) -> None:
    """Warn of datasets that number their classes differently, as folders do where one lacks a class."""
    ours, theirs = stored_classes(train), stored_classes(validation)
    if count in (len(ours), len(theirs)) and any(one != other for one, other in zip(ours, theirs, strict=False)):
        rank_zero_warn(
            f"the training dataset has the classes {listed(ours, 5)}, the validation dataset {listed(theirs, 5)}. If "
            "labels are positions in these lists, the same label stands for different classes: give both the same "
            "list, with an empty folder for a class that is missing. If only the names differ, pass class_names=[…]"
        )


def _check_samplers(train: "DataLoader[Any]", validation: "DataLoader[Any]") -> None:
    """Refuse samplers and batch samplers that always draw the same part: known ones, and the user's own."""
    for loader, name in ((train, "the train dataloader"), (validation, "the validation dataloader")):
        sampler = own_sampler(loader)
        refuse_part(loader, sampler, name)
        if type(sampler).__module__.split(".")[0] not in _KNOWN:
            with isolate_rng():
                refuse_part(loader, sampler, name, samples_chosen(sampler, loader.dataset, name))


def _check_categories(found: Tensor, names: Sequence[str] | None) -> None:
    count = None if names is None else len(checked_names(names, "category_names"))
    if int(found.min()) < 0 or (count is not None and int(found.max()) >= count):
        raise ValueError(
            f"categories(batch) must lie in [0, {'K' if count is None else count}), found {int(found.min())} to "
            f"{int(found.max())}: number them from 0, and give one of category_names for each"
        )


def _check_samples(loader: "DataLoader[Any]", name: str, read: Callable[[Any], int]) -> int:
    """Read some samples together, one alone, and the first whose stored label is out of range; return the class count.

    A stored label only raises suspicion, since a transform or the task may change it. The sample itself decides.
    """
    size: int = len(loader.dataset)  # type: ignore[arg-type]

    def read_samples(*batches: Sequence[int]) -> int:
        for indices, batch in zip(batches, read_batches(loader, batches), strict=True):
            try:
                classes = read(batch)
            except BatchError as error:
                if error.row is None:
                    raise
                raise BatchError(f"{name} sample {indices[error.row]}: {error}") from error
        return classes

    classes = read_samples(range(min(SAMPLES_TRIED, loader.batch_size or 2, size)), [0])
    suspect = first_label_out_of_range(loader.dataset, classes)
    if suspect is not None:
        read_samples([suspect])
    return classes
