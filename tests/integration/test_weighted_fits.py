"""Weights in fits of every kind: several loaders, limits, interruptions, processes, the loss."""

import json
import warnings

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, TensorDataset, WeightedRandomSampler

from lightning_pareto import (
    ParetoCallback,
    ParetoSampler,
    ReweightedDataModule,
    estimate_influence,
    reweight,
    reweighted_dataloader,
)
from lightning_pareto.datasets import gaussian_classes
from tests.distributed._two import read, two, write
from tests.integration._models import Data, Dicts, Plain, datasets, trainer

HALF = np.repeat([2.0, 0.0], 120)
ROWS = {tuple(row): i for i, row in enumerate(datasets()[0].tensors[0].tolist())}


def indices(x):
    return [ROWS[tuple(row)] for row in x.tolist()]


class Batches(Callback):
    """Notes the samples of all training batches, one list per epoch, by the number of the epoch."""

    def __init__(self, key=None):
        self.key = key
        self.epochs = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        x = (batch if self.key is None else batch[self.key])[0]
        self.epochs.setdefault(trainer.current_epoch, []).extend(indices(x))


class Stop(Callback):
    """Interrupts the fit in the middle of an epoch, before this step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("interrupted")


def weights():
    values = np.random.default_rng(0).uniform(0, 2, 240)
    return values * 240 / values.sum()


def sampled():
    own = np.where(datasets()[0].tensors[1] == 0, 3.0, 1.0)
    sampler = WeightedRandomSampler(torch.from_numpy(own), 240)
    return DataLoader(datasets()[0], 30, sampler=sampler), DataLoader(datasets()[1], 40), own


@pytest.mark.filterwarnings("ignore:the task cannot read the training batches in training mode")  # of x, y and weight
@pytest.mark.parametrize("apply", ["resampling", "loss"])
def test_analysis_knows_the_weights_of_the_fit(tmp_path, apply):
    plain, made = DataLoader(datasets()[0], 30), weights()
    callback = ParetoCallback(verbose=False, folds=3, train_dataloader=plain)
    data = ReweightedDataModule(Data(), made, apply=apply)
    trainer(tmp_path, callback, max_epochs=1).fit(Weighted(), datamodule=data)
    np.testing.assert_allclose(callback.influence.weights, made)


class Weighted(Plain):
    """Takes batches with and without weights."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch[:2], batch_idx)


@pytest.mark.filterwarnings("ignore:the verdict is")
def test_analysis_knows_the_weights_of_the_users_sampler_and_the_next_ones_replace_them(tmp_path):
    train, val, own = sampled()
    callback = ParetoCallback(verbose=False, folds=3, train_dataloader=DataLoader(datasets()[0], 30))
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), train, val)
    np.testing.assert_allclose(callback.influence.weights, own / own.mean())
    found = reweight(callback.influence)
    second = reweighted_dataloader(train, found)
    np.testing.assert_allclose(second.sampler.weights.values, found.values)
    rare = datasets()[0].tensors[1].numpy() == 0
    assert found.values[rare].sum() == pytest.approx(240 * own[rare].sum() / own.sum())


@pytest.mark.distributed
def test_every_process_knows_the_weights_of_the_users_sampler(tmp_path):
    train, val, own = sampled()
    callback = ParetoCallback(verbose=False, folds=3)
    two(tmp_path, callback, NotesWeights(tmp_path, callback), max_epochs=1).fit(Plain(), train, val)
    for found in read(tmp_path):
        np.testing.assert_allclose(found, own / own.mean())


class NotesWeights(Callback):
    """Writes down on each process which weights of the fit the analysis has found."""

    def __init__(self, folder, callback):
        self.folder, self.callback = folder, callback

    def on_train_end(self, trainer, pl_module):
        write(self.folder, trainer, self.callback.influence.weights.tolist())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the verdict is", "ignore:'pin_memory' argument")
def test_rounds_of_fitting_and_reweighting_lose_no_class(tmp_path):
    """Even if the user goes on where the verdict is no longer yes."""
    train, val = gaussian_classes(1500, noise=0.3, seed=0), gaussian_classes(1000, seed=1)
    data = pl.LightningDataModule.from_datasets(train.dataset(), val.dataset(), batch_size=64)
    worst, found = [], None
    for _ in range(3):
        pl.seed_everything(0, verbose=False)
        module = Plain(lr=0.2)
        module.network = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))
        callback = ParetoCallback(budget=0.3, verbose=False)
        fitted = trainer(tmp_path, callback, max_epochs=15)
        fitted.fit(module, datamodule=data if found is None else ReweightedDataModule(data, found))
        worst.append(float(fitted.callback_metrics["val_accuracy_worst"]))
        found = reweight(callback.influence, return_mass="multiplicative")
    assert min(worst) > worst[0] - 0.05


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("saves", [{"every_n_train_steps": 11}, {}], ids=["in a step", "in a validation"])
@pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
    "ignore:Be aware that when using `ckpt_path`",
)
def test_interrupted_epoch_continues_where_it_was(tmp_path, workers, saves):
    """240 samples are 8 batches an epoch, so both checkpoints are from the middle of epoch 1."""

    def data():
        return ReweightedDataModule(Data(num_workers=workers), weights())

    when = {"save_top_k": -1, "filename": "{step}", **saves}
    options = {"enable_checkpointing": True, "max_epochs": 3, "val_check_interval": 0.5}
    whole, first, rest = Batches(), Batches(), Batches()
    trainer(tmp_path, whole, max_epochs=3).fit(Plain(), datamodule=data())
    kept = ModelCheckpoint(tmp_path / "kept", **when)
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer(tmp_path, first, kept, Stop(13), **options).fit(Plain(), datamodule=data())
    done = max(int(path.stem.split("=")[1]) for path in (tmp_path / "kept").iterdir())
    assert done == (11 if saves else 12)
    resumed = trainer(tmp_path, rest, max_epochs=3, val_check_interval=0.5)
    resumed.fit(Plain(), datamodule=data(), ckpt_path=tmp_path / "kept" / f"step={done}.ckpt")
    assert rest.epochs[1] == whole.epochs[1][(done - 8) * 32 :]
    assert rest.epochs[2] == whole.epochs[2]
    assert resumed.global_step == 24


class Several(Data):
    """Two train loaders; the other one is longer and has other samples."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.other = TensorDataset(torch.zeros(320, 2), torch.zeros(320, dtype=torch.int64))

    def train_dataloader(self):
        ours, other = super().train_dataloader(), DataLoader(self.other, batch_size=32)
        if self.kind == "list":
            return [ours, other]
        loaders = {"ours": ours, "other": other}
        return CombinedLoader(loaders, "min_size") if self.kind == "combined" else loaders


class OneOf(Plain):
    def __init__(self, key):
        super().__init__()
        self.key = key

    def training_step(self, batch, batch_idx):
        return super().training_step(batch[self.key], batch_idx)


@pytest.mark.parametrize(("kind", "key"), [("dict", "ours"), ("list", 0), ("combined", "ours")])
def test_weights_apply_to_one_of_several_loaders(tmp_path, kind, key):
    data, seen = ReweightedDataModule(Several(kind), HALF, loader=key), Batches(key)
    trainer(tmp_path, seen, max_epochs=2).fit(OneOf(key), datamodule=data)
    batches = 8 if kind == "combined" else 10  # by default the shorter loader starts over
    for epoch in (0, 1):
        assert len(seen.epochs[epoch]) >= (batches - 1) * 32
        assert np.bincount(seen.epochs[epoch][:240], minlength=240).tolist() == HALF.tolist()
        assert max(seen.epochs[epoch]) < 120
    assert seen.epochs[0] != seen.epochs[1]


@pytest.mark.parametrize(
    ("data", "loader", "message"),
    [
        (
            Several("dict"),
            None,
            r"returns 2 loaders, found loader=None\. Name the one(.|\n)*: loader='ours' or 'other'",
        ),
        (Several("list"), 2, r"found loader=2\. Name the one that the weights are for: loader=0 or 1"),
        (Data(), "ours", "loader='ours', but train_dataloader.. returns a single DataLoader"),
    ],
)
def test_loader_must_be_chosen_among_several(data, loader, message):
    with pytest.raises(ValueError, match=message):
        ReweightedDataModule(data, HALF, loader=loader).train_dataloader()


def test_limited_batches_are_the_first_draws_of_the_epoch(tmp_path):
    whole, limited = Batches(), Batches()
    trainer(tmp_path, whole).fit(Plain(), datamodule=ReweightedDataModule(Data(), weights()))
    trainer(tmp_path, limited, limit_train_batches=3).fit(Plain(), datamodule=ReweightedDataModule(Data(), weights()))
    assert limited.epochs == {epoch: drawn[:96] for epoch, drawn in whole.epochs.items()}


def test_overfitting_repeats_the_same_weighted_batches(tmp_path):
    seen = Batches()
    trainer(tmp_path, seen, overfit_batches=3).fit(Plain(), datamodule=ReweightedDataModule(Data(), HALF))
    assert len(seen.epochs[0]) == 96
    assert seen.epochs[0] == seen.epochs[1]
    assert max(seen.epochs[0]) < 120
    assert seen.epochs[0] != sorted(seen.epochs[0])


def test_batch_sampler_over_the_weights_works_as_the_error_says(tmp_path):
    class Pairs(BatchSampler):
        """Both samples of a batch are equal."""

        def __iter__(self):
            return ([i, i] for i in self.sampler)

    train, val = datasets()
    with pytest.raises(
        TypeError, match=r"has a Pairs, which would ignore the weights(.|\n)*build your batch sampler on ParetoSampler"
    ):
        reweighted_dataloader(DataLoader(train, batch_sampler=Pairs(RandomSampler(train), 2, False)), HALF)
    loader = DataLoader(train, batch_sampler=Pairs(ParetoSampler(HALF), 2, False))
    seen = Batches()
    trainer(tmp_path, seen, limit_train_batches=120).fit(Plain(), loader, DataLoader(val, batch_size=50))
    assert max(seen.epochs[0]) < 120
    assert seen.epochs[0] != seen.epochs[1], "Lightning sets its epoch"


class WeighsItsLoss(Plain):
    def training_step(self, batch, batch_idx):
        x, y, weight = (batch["features"], batch["labels"], batch["weight"]) if isinstance(batch, dict) else batch
        assert weight.tolist() == [float(HALF[i]) for i in indices(x)]
        self.seen = [*getattr(self, "seen", []), *indices(x)]
        return (nn.functional.cross_entropy(self(x), y, reduction="none") * weight).mean()

    def validation_step(self, batch, batch_idx):
        if not isinstance(batch, dict):
            super().validation_step(batch, batch_idx)


@pytest.mark.parametrize("dicts", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_loss_can_be_weighted(tmp_path, dicts, workers):
    train, val = (Dicts(part) if dicts else part for part in datasets())
    data, model = ReweightedDataModule(Data(train, val, num_workers=workers), HALF, apply="loss"), WeighsItsLoss()
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=data)
    assert sorted(model.seen) == list(range(240)), "an ordinary epoch"


class Backwards(Sampler):
    def __iter__(self):
        return iter(range(239, -1, -1))

    def __len__(self):
        return 240


def test_sampler_of_the_user_is_kept_with_weights_in_the_loss(tmp_path):
    class Mine(Data):
        def train_dataloader(self):
            return DataLoader(self.train, batch_sampler=BatchSampler(Backwards(), 32, False))

    model = WeighsItsLoss()
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=ReweightedDataModule(Mine(), HALF, apply="loss"))
    assert model.seen == list(range(239, -1, -1))


class SeesOnEachProcess(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        write(self.folder, trainer, pl_module.seen)


class Particular(DataLoader):
    def __init__(self, secret, dataset, **options):
        self._secret = secret  # Lightning can only rebuild it from the arguments of the first
        super().__init__(dataset, **options)


@pytest.mark.distributed
@pytest.mark.parametrize("loader", [DataLoader, lambda *args, **options: Particular("s", *args, **options)])
def test_loss_is_weighted_on_two_processes(tmp_path, loader):
    """Lightning rebuilds the loader with a distributed sampler, from arguments that it remembers."""

    class Made(Data):
        def train_dataloader(self):
            return loader(self.train, batch_size=32, shuffle=True)

    data = ReweightedDataModule(Made(), HALF, apply="loss")
    two(tmp_path, SeesOnEachProcess(tmp_path), max_epochs=1).fit(WeighsItsLoss(), datamodule=data)
    first, second = read(tmp_path)
    assert sorted(first + second) == list(range(240))


class NotesOnEachProcess(Batches):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        write(self.folder, trainer, json.dumps(self.epochs))


@pytest.mark.distributed
def test_overfitting_works_on_two_processes(tmp_path):
    data = ReweightedDataModule(Data(), HALF)
    two(tmp_path, NotesOnEachProcess(tmp_path), overfit_batches=2).fit(Plain(), datamodule=data)
    first, second = (json.loads(found) for found in read(tmp_path))
    assert len(first["0"]) == len(second["0"]) == 64
    assert first["0"] == first["1"]
    assert max(first["0"] + second["0"]) < 120
    assert (np.bincount(first["0"] + second["0"]) <= 2).all()


def test_unknown_ways_to_apply_weights_are_refused():
    with pytest.raises(ValueError, match="apply must be 'resampling' or 'loss', found 'gradient'"):
        ReweightedDataModule(Data(), HALF, apply="gradient")


class Files(torch.utils.data.Dataset):
    """Samples in this order, which may come from a folder. Their labels are not stored apart."""

    def __init__(self, order, jitter=0.0):
        self.order, self.jitter = order, jitter

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        x, y = datasets()[0][self.order[index]]
        return x + self.jitter * torch.rand(2), int(y)


@pytest.mark.parametrize(("jitter", "warned"), [(0.0, True), (1.0, False)])
@pytest.mark.filterwarnings("ignore:the training dataset returns a different sample")
def test_weights_for_samples_with_the_same_labels_in_another_order_are_warned_of(jitter, warned):
    train, validation = datasets()
    labels = train.tensors[1]
    classes = [(labels == k).nonzero()[:, 0] for k in range(4)]
    orders = [torch.cat(parts).tolist() for parts in (classes, [part.flip(0) for part in classes])]
    torch.manual_seed(0)
    influence = estimate_influence(
        Plain(), DataLoader(Files(orders[0], jitter), 32), DataLoader(validation, 32), curvature="identity", folds=1
    )
    made = reweight(influence, budget=0.2)
    for order, other in zip(orders, (False, True), strict=True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            reweighted_dataloader(DataLoader(Files(order, jitter), 32), made)
        assert any("have other contents" in str(each.message) for each in caught) == (warned and other)
