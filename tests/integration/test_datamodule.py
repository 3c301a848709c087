"""Weights into DataModules and DataLoaders, and a second fit on them."""

import copy
import pickle

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_pareto import (
    ParetoCallback,
    ParetoSampler,
    ReweightedDataModule,
    SampleWeights,
    reweighted_dataloader,
)
from lightning_pareto import reweight as solve
from tests.integration._models import Data, Plain, datasets, trainer


def half():
    """Weights that draw the first half of the samples twice and the rest never."""
    return np.repeat([2.0, 0.0], 120)


class Seen(Callback):
    """Notes which samples each training epoch draws."""

    def __init__(self, data):
        self.rows = {tuple(row): i for i, row in enumerate(data.tensors[0].tolist())}
        self.epochs = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.epochs.append([])
        self.epochs[-1] += [self.rows[tuple(row)] for row in batch[0].tolist()]


def test_second_fit_draws_by_weight(tmp_path):
    data, seen = Data(), Seen(datasets()[0])
    trainer(tmp_path, seen).fit(Plain(), datamodule=ReweightedDataModule(data, SampleWeights(half())))
    assert [np.bincount(epoch, minlength=240).tolist() for epoch in seen.epochs] == [half().tolist()] * 2
    assert seen.epochs[0] != seen.epochs[1], "each epoch is shuffled"


def test_whole_job_from_callback_to_second_fit(tmp_path):
    data, callback = Data(), ParetoCallback(verbose=False)
    trainer(tmp_path, callback, max_epochs=5).fit(Plain(), datamodule=data)
    path = solve(callback.influence).save(tmp_path / "weights.safetensors")
    fitted = trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=3)
    fitted.fit(Plain(), datamodule=ReweightedDataModule(data, path))
    assert fitted.callback_metrics["val_accuracy_macro"] > 0.5


def test_dataloader_keeps_all_options(tmp_path):
    generator = torch.Generator().manual_seed(3)
    train, val = datasets()
    options = {
        "batch_size": 7,
        "collate_fn": torch.utils.data.default_collate,
        "num_workers": 2,
        "pin_memory": False,
        "generator": generator,
        "drop_last": True,
        "prefetch_factor": 3,
        "persistent_workers": True,
        "timeout": 60,
    }
    loader = reweighted_dataloader(DataLoader(train, shuffle=True, **options), half())
    for name, value in options.items():
        assert getattr(loader, name) is value or getattr(loader, name) == value
    assert isinstance(loader.sampler, ParetoSampler)
    assert {len(y) for _, y in loader} == {7}
    seen = Seen(train)
    trainer(tmp_path, seen, max_epochs=1).fit(Plain(), loader, DataLoader(val, batch_size=50))
    assert len(seen.epochs[0]) == 240 // 7 * 7
    assert max(seen.epochs[0]) < 120


def test_subclass_of_dataloader_is_kept():
    class Special(DataLoader):
        def __init__(self, secret, dataset):
            self.secret = secret
            super().__init__(dataset, batch_size=5)

    loader = reweighted_dataloader(Special("s", range(10)), np.repeat([2.0, 0.0], 5))
    assert isinstance(loader, Special)
    assert loader.secret == "s"
    assert sorted(torch.cat(list(loader)).tolist()) == sorted([*range(5)] * 2)


def test_wrapper_defines_only_the_hooks_of_the_datamodule():
    class Staged(Data):
        def setup(self, stage):
            self.stage = stage

    inner = Staged()
    wrapper = ReweightedDataModule(inner, half())
    hooks = ("setup", "val_dataloader", "test_dataloader", "prepare_data")
    assert [name for name in hooks if is_overridden(name, wrapper)] == ["setup", "val_dataloader"]
    wrapper.setup("fit")
    assert inner.stage == "fit"


def test_datamodule_without_validation_can_be_fitted(tmp_path):
    class OnlyTrain(pl.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(datasets()[0], batch_size=32)

    class Untested(Plain):
        validation_step = pl.LightningModule.validation_step

    trainer(tmp_path).fit(Untested(), datamodule=ReweightedDataModule(OnlyTrain(), half()))


def test_datamodule_keeps_its_hooks_and_knows_its_trainer(tmp_path):
    class Hooked(Data):
        moved = 0

        def on_after_batch_transfer(self, batch, dataloader_idx):
            assert self.trainer is not None
            self.moved += 1
            return batch

    inner = Hooked()
    fitted = trainer(tmp_path, max_epochs=1)
    fitted.fit(Plain(), datamodule=ReweightedDataModule(inner, half()))
    assert inner.moved > 0
    assert inner.trainer is fitted


def test_resumed_fit_draws_the_current_epoch(tmp_path):
    data = Data()
    whole, first, rest = (Seen(datasets()[0]) for _ in range(3))
    trainer(tmp_path, whole, max_epochs=3).fit(Plain(), datamodule=ReweightedDataModule(data, np.ones(240)))
    fitted = trainer(tmp_path, first, max_epochs=1)
    fitted.fit(Plain(), datamodule=ReweightedDataModule(data, np.ones(240)))
    fitted.save_checkpoint(tmp_path / "one.ckpt")
    trainer(tmp_path, rest, max_epochs=3).fit(
        Plain(), datamodule=ReweightedDataModule(data, np.ones(240)), ckpt_path=tmp_path / "one.ckpt"
    )
    assert first.epochs + rest.epochs == whole.epochs


@pytest.mark.parametrize("when", [{}, {"save_on_train_epoch_end": True}, {"every_n_train_steps": 8}], ids=str)
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_epoch_is_not_repeated_from_a_checkpoint_of_its_end(tmp_path, workers, when):
    """A worker draws its first indices before Lightning sets the epoch, and checkpoints count epochs differently."""

    def checkpoints():
        return ModelCheckpoint(tmp_path / "checkpoints", filename="{epoch}", save_top_k=-1, **when)

    whole, rest = (Seen(datasets()[0]) for _ in range(2))

    def data():
        return ReweightedDataModule(Data(num_workers=workers), np.ones(240))

    trainer(tmp_path, whole, checkpoints(), enable_checkpointing=True).fit(Plain(), datamodule=data())
    fitted = trainer(tmp_path, rest, checkpoints(), enable_checkpointing=True)
    fitted.fit(Plain(), datamodule=data(), ckpt_path=tmp_path / "checkpoints" / "epoch=0.ckpt")
    assert rest.epochs == whole.epochs[1:]


class Particular(Data):
    """Has its own attributes, saves its hyper-parameters and prepares its data once for all machines."""

    def __init__(self, batch_size=32, root="data"):
        super().__init__()
        self.save_hyperparameters()
        self.prepare_data_per_node = False
        self.num_classes = 4
        self.seed = 7

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.hparams["batch_size"])


def test_seed_determines_the_draws():
    drawn = [list(ReweightedDataModule(Data(), half(), seed=s).train_dataloader().sampler) for s in (0, 5, 5)]
    assert drawn[0] != drawn[1] == drawn[2] == list(ParetoSampler(half(), seed=5))


def test_attributes_of_the_datamodule_are_reached_through_the_wrapper():
    inner = Particular()
    wrapper = ReweightedDataModule(inner, half(), seed=1)
    assert wrapper.num_classes == 4
    assert wrapper.prepare_data_per_node is False
    assert wrapper.seed == 1, "that of the draws"
    assert inner.seed == 7
    wrapper.num_classes = 5  # as lightning's BatchSizeFinder sets the batch size
    assert inner.num_classes == 5
    wrapper.another = 1
    assert not hasattr(inner, "another")
    with pytest.raises(AttributeError, match="'Particular' object has no attribute 'nothing'"):
        _ = wrapper.nothing


def test_wrapping_keeps_the_trainer_of_the_datamodule(tmp_path):
    inner = Data()
    fitted = trainer(tmp_path, max_epochs=1)
    fitted.fit(Plain(), datamodule=inner)
    assert ReweightedDataModule(inner, half()).trainer is fitted


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_wrapper_can_be_copied(tmp_path, twin):
    found = twin(ReweightedDataModule(Particular(), half(), seed=3))
    assert found.num_classes == 4
    assert found.seed == 3
    assert is_overridden("val_dataloader", found)
    trainer(tmp_path, max_epochs=1).fit(Plain(), datamodule=found)


def test_hyper_parameters_are_logged_and_saved_as_those_of_the_user(tmp_path):
    logger = CSVLogger(tmp_path)
    fitted = trainer(tmp_path, logger=logger, max_epochs=1, log_every_n_steps=1)
    fitted.fit(Plain(), datamodule=ReweightedDataModule(Particular(root="there"), half()))
    assert "root: there" in (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()
    fitted.save_checkpoint(tmp_path / "one.ckpt")
    again = Particular.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert again.hparams == {"batch_size": 32, "root": "there"}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


TEN = TensorDataset(torch.arange(10))


def drawn_by(sampler, weights):
    """How often each of ten samples is drawn in an epoch of a loader with this sampler and these weights."""
    loader = reweighted_dataloader(DataLoader(TEN, sampler=sampler), weights)
    return np.bincount([int(x) for (x,) in loader], minlength=10)


def test_weights_multiply_those_of_the_users_sampler():
    own, weights = np.array([0.0, 2.0] * 5), np.array([2.0] * 5 + [0.0] * 5)
    expected = np.array([0, 5, 0, 5, 0, 0, 0, 0, 0, 0])  # samples 1 and 3 have both
    for sampler in (WeightedRandomSampler(own, 10), ParetoSampler(own)):
        np.testing.assert_array_equal(drawn_by(sampler, weights), expected)
        np.testing.assert_array_equal(drawn_by(sampler, np.ones(10)), own)
    with pytest.raises(ValueError, match="no sample has a weight above zero both here and in"):
        drawn_by(WeightedRandomSampler(own, 10), 1.0 * (own == 0))


@pytest.mark.parametrize("sampler", [RandomSampler(TEN, num_samples=4), WeightedRandomSampler([1.0] * 10, 4)])
def test_epoch_stays_as_long_as_the_users_sampler_makes_it(sampler):
    assert drawn_by(sampler, np.ones(10)).sum() == 4
    assert drawn_by(sampler, np.full(10, 0.5)).sum() == 2, "half of the mass"


class OddFirst(RandomSampler):
    def __iter__(self):
        return iter([1, 3, 5, 7, 9, 0, 2, 4, 6, 8])


@pytest.mark.parametrize("sampler", [OddFirst(TEN), WeightedRandomSampler([1.0] * 10, 5, replacement=False)])
def test_sampler_that_draws_in_a_way_of_its_own_is_refused(sampler):
    with pytest.raises(TypeError, match=rf"draws with a {type(sampler).__name__}(.|\n)*apply='loss'"):
        drawn_by(sampler, np.ones(10))


def test_batch_sampler_of_the_user_is_refused():
    class Buckets(BatchSampler):
        pass

    with pytest.raises(TypeError, match=r"has a Buckets(.|\n)*ParetoSampler\(weights\)"):
        reweighted_dataloader(DataLoader(TEN, batch_sampler=Buckets(RandomSampler(TEN), 2, False)), np.ones(10))


class Rows(torch.utils.data.Dataset):
    """Holds its labels in its items only, as rows of a table do."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x, int(y)


class SplitsAgain(pl.LightningDataModule):
    """Splits at random in every ``setup``."""

    def setup(self, stage):
        self.train, self.val = torch.utils.data.random_split(Rows(datasets()[0]), [200, 40])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=30, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=40)


@pytest.mark.filterwarnings("ignore:the verdict is")
@pytest.mark.parametrize("apply", ["resampling", "loss"])
def test_weights_are_refused_for_another_random_split(tmp_path, apply):
    callback, data = ParetoCallback(verbose=False, folds=3), SplitsAgain()
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=data)
    weights = solve(callback.influence)
    reweighted_dataloader(data.train_dataloader(), weights)
    with pytest.raises(ValueError, match=r"belong to another training dataset(.|\n)*manual_seed"):
        trainer(tmp_path, max_epochs=1).fit(Plain(), datamodule=ReweightedDataModule(data, weights, apply=apply))
