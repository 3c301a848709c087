"""Wrong data, models and options of fits with the callbacks and of DataModules. No step is trained."""

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_pareto import (
    BatchError,
    ClassificationTask,
    CourseCorrection,
    ParetoCallback,
    ReweightedDataModule,
    SampleWeights,
)
from tests.bad_input._case import Case
from tests.integration._models import CLASSES, Data, Plain, datasets, trainer

NAN = float("nan")
TRAIN, VAL = datasets()


class CountSteps(Callback):
    """Counts the training steps that begin."""

    steps = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps += 1


class Loaders(pl.LightningDataModule):
    """Returns these loaders, whatever they are."""

    def __init__(self, train=None, val=None):
        super().__init__()
        self.loaders = (DataLoader(TRAIN, 32, shuffle=True) if train is None else train), val

    def train_dataloader(self):
        return self.loaders[0]

    def val_dataloader(self):
        return DataLoader(VAL, 50) if self.loaders[1] is None else self.loaders[1]


class OnlyTraining(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TRAIN, 32)


class OnlyValidation(pl.LightningDataModule):
    def val_dataloader(self):
        return DataLoader(VAL, 50)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(TRAIN)


class Empty(Dataset):
    def __len__(self):
        return 0

    def __getitem__(self, i):
        raise IndexError(i)


class Everything(Sampler):
    """An order of the user's own."""

    def __iter__(self):
        return iter(range(240))

    def __len__(self):
        return 240


class Batches(BatchSampler):
    """Batches of the user's own."""


class WithoutStatistics(Plain):
    def __init__(self):
        super().__init__()
        norm = nn.BatchNorm1d(8, track_running_stats=False)
        self.network = nn.Sequential(nn.Linear(2, 8), norm, nn.Linear(8, CLASSES))


class WithoutValidation(Plain):
    validation_step = pl.LightningModule.validation_step


class Broken(Plain):
    def __init__(self):
        super().__init__()
        self.network[0].weight.data[0, 0] = torch.nan


class Complex(Plain):
    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))


def changed(part, index, label):
    x, y = part.tensors
    y = y.clone()
    y[index] = label
    return TensorDataset(x, y)


def floating(part):
    return TensorDataset(part.tensors[0], part.tensors[1].float())


def mean_loss(logits, targets):
    return nn.functional.cross_entropy(logits, targets)


def relative_loss(logits, targets):
    each = nn.functional.cross_entropy(logits, targets, reduction="none")
    return each / each.mean()


def fit(callback=ParetoCallback, model=Plain, data=Data, trained=None, **options):
    """A case's call: a fit with these options of the callback, in which no training step may begin."""

    def call(folder):
        count = CountSteps()
        more = trained or {}
        fitted = trainer(folder, callback(**options), count, *more.pop("callbacks", ()), num_sanity_val_steps=0, **more)
        try:
            fitted.fit(model(), datamodule=data() if callable(data) else data)
        finally:
            assert count.steps == 0, "training before the error"

    return call


def correction(**options):
    return fit(CourseCorrection, **options)


def made(kind, *arguments, **options):
    return lambda _folder: kind(*arguments, **options)


def under_a_file(folder):
    (folder / "file").touch()
    return folder / "file" / "pareto"


ONE_EACH = "give one for each"
DATA = [
    Case("fit without a training loader", fit(data=OnlyValidation), MisconfigurationException, "`train_dataloader` must be", ""),
    Case("fit without validation", fit(data=OnlyTraining), ValueError, "there is no validation set", r"val_dataloader\(\)"),
    Case("fit without a validation step", fit(model=WithoutValidation), ValueError, "no validation set", r"validation_step\(\)"),
    Case("fit on an empty validation set", fit(data=Loaders(val=DataLoader(Empty()))), ValueError, "validation dataloader has an empty", "check the split"),
    Case("fit on a stream", fit(data=Loaders(DataLoader(Stream(), 32))), TypeError, "train dataloader must read .* found Stream", r"list\(dataset\)"),
    Case("fit with a stream for validation", fit(data=Loaders(val=DataLoader(Stream(), 32))), TypeError, "validation dataloader must read .* found Stream", "map-style"),
    Case("fit on loaders given twice", fit(data=Loaders({"a": DataLoader(TRAIN), "b": DataLoader(TRAIN)})), TypeError, "found dict", "choose one with train_dataloader="),
    Case("fit on a label of -100", fit(data=lambda: Data(changed(TRAIN, 77, -100))), BatchError, "training sample 77: .*found -100", "relabel"),
    Case("fit with a label too large for validation", fit(data=lambda: Data(val=changed(VAL, 99, 4))), BatchError, "validation sample 99: .*found 4", "relabel"),
    Case("fit on floating labels", fit(data=lambda: Data(floating(TRAIN))), BatchError, "expected integer labels", "targets=lambda batch"),
    Case("fit on other samples for influence", fit(train_dataloader=DataLoader(VAL)), ValueError, r"ParetoCallback\(train_dataloader=…\) reads 120 samples, but the fit reads 240", "same samples in the same order"),
    Case("fit without such a loader", fit(val_dataloader_idx=1), ValueError, "val_dataloader_idx=1", "there are 1 loaders"),
]  # fmt: skip
MODELS = [
    Case("fit of NaN weights", fit(model=Broken), BatchError, "not finite", "NaN or infinity"),
    Case("fit of complex parameters", fit(model=Complex), ValueError, r"complex parameters \(phase\)", "real and imaginary"),
    Case("fit of a frozen model", fit(model=lambda: Plain().requires_grad_(False)), ValueError, "every parameter is frozen", "Unfreeze"),
    Case("fit of BatchNorm without statistics", fit(model=WithoutStatistics), BatchError, "more than 1 value", "track_running_stats"),
    Case("fit with a loss in one number", fit(task=ClassificationTask(loss=mean_loss)), ValueError, "one differentiable value", 'reduction="none"'),
    Case("fit with a loss over the batch", fit(task=ClassificationTask(loss=relative_loss)), ValueError, "changes with the other samples", "own row"),
]  # fmt: skip
OPTIONS = [
    Case("fit with two class names", fit(class_names=["a", "b"]), ValueError, "2 class names for a model with 4 logits", ONE_EACH),
    Case("fit with a class name twice", fit(class_names=["1", 1, "2", "3"]), ValueError, "different names", "must be a list"),
    Case("fit with a text for class names", fit(class_names="nesw"), ValueError, "found 'nesw'", "must be a list"),
    Case("fit with floating categories", fit(categories=lambda b: b[0]), ValueError, "must return an integer tensor", "shape"),
    Case("fit with negative categories", fit(categories=lambda b: b[1] - 9), ValueError, "must lie in", "number them from 0"),
    Case("fit with too few category names", fit(categories=lambda b: b[1] * 0 + 1, category_names=["a"]), ValueError, r"\[0, 1\), found 1", "one of category_names"),
    Case("fit with a category name twice", fit(categories=lambda b: b[1] * 0, category_names=["a", "a"]), ValueError, "category_names must be", "different names"),
    Case("fit with results below a file", lambda folder: fit(dirpath=under_a_file(folder))(folder), OSError, "cannot be written to dirpath=.*file is not a folder", "Give another folder"),
    Case("fit for an unknown target", fit(targets="wset"), ValueError, "unknown target 'wset'", "'east', 'north', 'west', 'south'"),
    Case("fit with a floor of an unknown name", fit(targets="west", floors={"nrth": 0.0}), ValueError, r"unknown categories \['nrth'\]", "expected names from"),
    Case("fit with floors of NaN", fit(targets="west", floors=NAN), ValueError, "nan", "floors must be finite"),
    Case("fit with floors for two", fit(targets="west", floors=[0.0, 0.0]), ValueError, r"found shape \(2,\)", "one number or 4"),
    Case("fit with floors without targets", fit(floors=0.1), ValueError, "need not gain", r"targets=\[\.\.\.\]"),
    Case("fit of layers that match nothing", fit(layers=["hed.*"]), ValueError, "no trainable parameter matches", "their names are"),
    Case("fit with a budget of NaN", fit(budget=NAN), ValueError, "found nan", r"in \(0, 1\]"),
    Case("fit with a level of 5", fit(level=5), ValueError, "found 5", r"in \(0, 1\)"),
    Case("fit with memory below 0", fit(max_memory=-1), ValueError, "found -1", "in GiB"),
    Case("fit at an unknown checkpoint", fit(checkpoint="first"), ValueError, "found 'first'", "a list of checkpoint files"),
    Case("fit at no checkpoint", fit(checkpoint=[]), ValueError, r"found \[\]", "'best', 'last', 'kept'"),
]  # fmt: skip
CORRECTIONS = [
    Case("correction on a stream", correction(data=Loaders(DataLoader(Stream(), 32))), TypeError, "found Stream", "map-style"),
    Case("correction on loaders given twice", correction(data=lambda: Loaders({"a": DataLoader(TRAIN), "b": DataLoader(TRAIN)}), train_dataloader=DataLoader(TRAIN)), TypeError, "one training loader, but the fit has a dict of 2", "use one loader, or remove the callback"),
    Case("correction without batching", correction(data=lambda: Loaders(DataLoader(TRAIN, batch_size=None))), TypeError, "disabled", "batch_size"),
    Case("correction of batches of one's own", correction(data=lambda: Loaders(DataLoader(TRAIN, batch_sampler=Batches(RandomSampler(TRAIN), 32, False)))), TypeError, "your Batches", "shuffle=True"),
    Case("correction on other samples", correction(train_dataloader=DataLoader(VAL)), ValueError, r"CourseCorrection\(train_dataloader=…\) reads 120", "same order"),
    Case("correction with results below a file", lambda folder: correction(dirpath=under_a_file(folder))(folder), OSError, "cannot be written to dirpath=.*file is not a folder", "Give another folder"),
    Case("correction with two class names", correction(class_names=["a", "b"]), ValueError, "2 class names", ONE_EACH),
    Case("correction with memory of NaN", correction(max_memory=NAN), ValueError, "found nan", "in GiB"),
    Case("correction with a threshold of NaN", correction(threshold=NAN), ValueError, "found nan", "threshold must be an accuracy"),
    Case("correction with a threshold of 1", correction(threshold=1.0), ValueError, "found 1.0", r"in \[0, 1\)"),
    Case("correction with a level of 0", correction(level=0.0), ValueError, "found 0.0", r"level must be in \(0, 1\)"),
    Case("correction with a gain below 0", correction(least_gain=-0.1), ValueError, "found -0.1", "least_gain must be"),
    Case("correction after half an epoch", correction(warmup_epochs=1.5), ValueError, "found 1.5", "warmup_epochs must be a whole"),
    Case("correction of -1 epochs", correction(max_corrections=-1), ValueError, "found -1", "max_corrections must be a whole"),
    Case("correction that keeps more than all", correction(keep=1.5), ValueError, "found 1.5", "keep must be a share"),
    Case("correction by an unknown program", correction(method="magic"), ValueError, "found 'magic'", "mass_preserving"),
    Case("correction by an unknown return", correction(return_mass="none"), ValueError, "found 'none'", "additive"),
    Case("correction without budget", correction(budget=0.0), ValueError, "found 0.0", "budget must be a share"),
    Case("correction of every second epoch", correction(trained={"check_val_every_n_epoch": 2}), ValueError, "one validation at the end", "check_val_every_n_epoch=1"),
    Case("correction with validation within", correction(trained={"val_check_interval": 0.5}), ValueError, "one validation at the end", "val_check_interval=1.0"),
    Case("correction of the same batches", correction(trained={"overfit_batches": 2}), ValueError, "overfit_batches", "remove one of them"),
    Case("correction of a weighted sampler", correction(data=Loaders(DataLoader(TRAIN, 32, sampler=WeightedRandomSampler([1.0] * 240, 240)))), TypeError, "your WeightedRandomSampler", r"ParetoSampler\(weights\)"),
    Case("correction of an order of one's own", correction(data=Loaders(DataLoader(TRAIN, 32, sampler=Everything()))), TypeError, "your Everything", "shuffle=True"),
    Case("correction of averaged weights", correction(trained={"callbacks": [StochasticWeightAveraging(1e-3)]}), TypeError, "StochasticWeightAveraging", "use WeightAveraging"),
]  # fmt: skip
HALF = SampleWeights(np.ones(240))
MODULES = [
    Case("a loader for a DataModule", made(ReweightedDataModule, DataLoader(TRAIN), HALF), TypeError, "found DataLoader", r"reweighted_dataloader\(dataloader, weights\)"),
    Case("a DataModule with wrong weights", made(ReweightedDataModule, Data(), "x" * 9), FileNotFoundError, "no weights artifact", "xxx"),
    Case("a DataModule that weights gradients", made(ReweightedDataModule, Data(), HALF, apply="gradient"), ValueError, "found 'gradient'", "resampling"),
    Case("a DataModule without training", lambda _: ReweightedDataModule(OnlyValidation(), HALF).train_dataloader(), MisconfigurationException, "`train_dataloader` must be", ""),
    Case("a DataModule of one loader", lambda _: ReweightedDataModule(Data(), HALF, loader="ours").train_dataloader(), ValueError, "loader='ours'", "returns a single DataLoader"),
    Case("a DataModule of several loaders", lambda _: ReweightedDataModule(Loaders([DataLoader(TRAIN)] * 2), HALF).train_dataloader(), ValueError, "returns 2 loaders", "loader=0 or 1"),
    Case("a DataModule of a part", lambda _: ReweightedDataModule(Data(Subset(TRAIN, range(99))), HALF).train_dataloader(), ValueError, "expected a training dataset of 240 samples, one per weight, found 99", "Use the dataset that influence"),
]  # fmt: skip
CASES = [*DATA, *MODELS, *OPTIONS, *CORRECTIONS, *MODULES]
