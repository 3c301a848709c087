"""Checks before the first training step, which leave no trace."""

import random
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.xla import XLAStrategy
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from lightning_pareto import BatchError, ClassificationTask, ParetoCallback, estimate_influence
from lightning_pareto.data.loaders import samples_chosen
from tests.influence.test_rows import InWorkers
from tests.integration._models import CLASSES, Data, Plain, datasets, trainer


class Stream(IterableDataset):
    def __iter__(self):
        x, y = datasets()[0].tensors
        return iter(zip(x, y, strict=True))


class CountSteps(Callback):
    """Counts the training steps that begin."""

    steps = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps += 1


def one_loader_each(train, val):
    return DataLoader(train), DataLoader(val)


def test_model_without_forward_or_parameters_is_refused_before_the_fit(tmp_path):
    class Formless(Plain):
        forward = pl.LightningModule.forward

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            return None

    with pytest.raises(BatchError, match=r'missing the required "forward"(.|\n)*ClassificationTask\('):
        trainer(tmp_path, ParetoCallback(), num_sanity_val_steps=0).fit(Formless(), datamodule=Data())

    with pytest.raises(ValueError, match="no trainable parameter"):
        trainer(tmp_path, ParetoCallback()).fit(Plain().requires_grad_(False), datamodule=Data())


@pytest.mark.parametrize("kind", [DeepSpeedStrategy, XLAStrategy, FSDPStrategy, ModelParallelStrategy])
def test_strategy_that_spreads_the_model_is_refused(kind):
    """Two of them are subclasses of DDPStrategy. None needs to be installed to be recognised."""
    fake = SimpleNamespace(
        strategy=object.__new__(kind), local_rank=0, fast_dev_run=False, current_epoch=0, callbacks=[]
    )
    with pytest.raises(TypeError, match=f'{kind.__name__} does not offer: use strategy="ddp"'):
        ParetoCallback().setup(fake, Plain(), "fit")
    ParetoCallback(analyse=False).setup(fake, Plain(), "fit")
    ParetoCallback().setup(fake, Plain(), "validate")


def test_ddp_is_not_refused():
    fake = SimpleNamespace(strategy=DDPStrategy(), local_rank=0, fast_dev_run=False, current_epoch=0, callbacks=[])
    ParetoCallback().setup(fake, Plain(), "fit")


@pytest.mark.parametrize("epochs", [1, 2])
def test_first_validation_may_come_late_or_never(tmp_path, epochs):
    callback = ParetoCallback(verbose=False)
    fitted = trainer(tmp_path, callback, max_epochs=epochs, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    fitted.fit(Plain(), datamodule=Data())
    assert callback.influence.support.sum() == 120
    assert ("val_accuracy_macro" in fitted.callback_metrics) == (epochs == 2)


class Mixing(Data):
    """Mixes labels in training, as MixUp does."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return (x, nn.functional.one_hot(y, CLASSES).float()) if self.trainer.training else (x, y)


class Stages(Callback):
    """Notes whether the trainer is training after the callback before it may have changed that."""

    def __init__(self):
        self.training = []

    def on_train_start(self, trainer, pl_module):
        self.training.append(trainer.training)

    def on_train_end(self, trainer, pl_module):
        self.training.append(trainer.training)


@pytest.mark.filterwarnings("ignore:the task cannot read the training batches in training mode")
def test_check_and_analysis_run_as_validation_and_restore_the_stage(tmp_path):
    callback, stages = ParetoCallback(verbose=False), Stages()
    options = {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0}  # the loaders are set up for the check
    trainer(tmp_path, callback, stages, **options).fit(Plain(), datamodule=Mixing())
    assert callback.influence.scores.shape == (240, CLASSES)
    assert stages.training == [True, True]


class Random(Dataset):
    """Draws from every random generator for each sample."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        x, y = self.data[i]
        return x + 0.01 * (torch.randn(2) + np.random.randn() + random.gauss(0, 1)).float(), y


class RandomState(Callback):
    """Notes the random states at the start and the end of training."""

    def __init__(self):
        self.states = []

    def on_train_start(self, trainer, pl_module):
        self.states.append((torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()))

    on_train_end = on_train_start


@pytest.mark.filterwarnings("ignore:the training dataset returns a different sample each time")
def test_random_states_and_the_fit_are_unchanged(tmp_path):
    states, weights = [], []
    for pareto in ([], [ParetoCallback(verbose=False)]):
        pl.seed_everything(0, verbose=False)
        model, before, after = Plain(), RandomState(), RandomState()
        train, val = datasets()
        trainer(tmp_path, before, *pareto, after).fit(model, datamodule=Data(Random(train), Random(val)))
        assert before.states == after.states
        states.append(after.states)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert states[0] == states[1]
    assert torch.equal(*weights)


class Targets(Dataset):
    """A dataset that stores its labels as torchvision does."""

    def __init__(self, x, y, name="targets", shift=0):
        self.x, self.y, self.shift = x, y, shift
        setattr(self, name, (y + shift).tolist())

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def wrong_at_77(part, label):
    x, y = part.tensors
    y = y.clone()
    y[77] = label
    return x, y


@pytest.mark.parametrize("label", [-100, CLASSES])
@pytest.mark.parametrize("kind", [TensorDataset, Targets, lambda x, y: Targets(x, y, "labels")])
def test_training_label_out_of_range_is_found_before_the_fit(tmp_path, kind, label):
    train, val = datasets()
    count = CountSteps()
    with pytest.raises(BatchError, match=rf"training sample 77: expected labels in \[0, 4\)(.|\n)*found {label}"):
        trainer(tmp_path, ParetoCallback(), count).fit(Plain(), datamodule=Data(kind(*wrong_at_77(train, label)), val))
    assert count.steps == 0


def test_labels_out_of_range_are_found_in_subsets_and_in_validation(tmp_path):
    train, val = datasets()
    subset = Subset(Subset(Targets(*wrong_at_77(train, 9)), range(50, 240)), range(20, 150))
    with pytest.raises(BatchError, match="training sample 7: "):
        trainer(tmp_path, ParetoCallback()).fit(Plain(), datamodule=Data(subset, val))
    fitted = trainer(tmp_path, ParetoCallback(), num_sanity_val_steps=1)  # one batch of 50, without sample 77
    with pytest.raises(BatchError, match="validation sample 77: "):
        fitted.fit(Plain(), datamodule=Data(train, TensorDataset(*wrong_at_77(val, 9))))


def test_stored_labels_that_differ_from_the_samples_do_no_harm(tmp_path):
    """First, ``targets`` are shifted by two. Then the last tensor is not a label at all."""
    train, val = datasets()
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data(Targets(*train.tensors, shift=2), val))
    assert callback.influence.scores.shape == (240, CLASSES)

    class Triple(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[:2], batch_idx)

        def validation_step(self, batch, batch_idx):
            return None

    task = ClassificationTask(logits=lambda m, batch: m(batch[0]), targets=lambda batch: batch[1])
    callback = ParetoCallback(task=task, verbose=False)
    numbered = [TensorDataset(*part.tensors, torch.arange(len(part))) for part in (train, val)]
    trainer(tmp_path, callback).fit(Triple(), datamodule=Data(*numbered))
    assert callback.influence.scores.shape == (240, CLASSES)


AVERAGING = [lambda: StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=1)]
if hasattr(pl.callbacks, "WeightAveraging"):
    AVERAGING.append(pl.callbacks.WeightAveraging)


@pytest.mark.parametrize("averaging", AVERAGING, ids=["stochastic", "running"][: len(AVERAGING)])
def test_weights_averaged_after_the_analysis_cause_a_warning(tmp_path, averaging):
    data = Data()
    with pytest.warns(UserWarning, match=r"comes after ParetoCallback and averages(.|\n)*\(…\), ParetoCallback\(…\)"):
        trainer(tmp_path, ParetoCallback(verbose=False), averaging(), max_epochs=4).fit(Plain(), datamodule=data)
    callback, model = ParetoCallback(verbose=False), Plain()
    trainer(tmp_path, averaging(), callback, max_epochs=4).fit(model, datamodule=data)
    expected = estimate_influence(model, data.train_dataloader(), data.val_dataloader())
    np.testing.assert_array_equal(callback.influence.scores, expected.scores)


def test_choice_among_several_validation_loaders_is_announced(tmp_path, monkeypatch):
    class Two(Plain):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return None

    infos = []
    monkeypatch.setattr("lightning_pareto.integration.analysis.checks.rank_zero_info", infos.append)
    train, val = (DataLoader(part, batch_size=50) for part in datasets())
    for loaders in ([val], [val, val]):
        assert not infos
        trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=1).fit(Two(), train, loaders)
    assert infos == ["ParetoCallback reads the first of 2 validation dataloaders (val_dataloader_idx=0)"]


def test_dataset_that_only_workers_can_read(tmp_path):
    """Neither the checks before the fit, nor the analysis, nor the previews read it in the main process."""
    train, val = datasets()
    loaders = [DataLoader(InWorkers(part), 30, num_workers=1) for part in (train, val)]
    callback = ParetoCallback(dirpath=tmp_path / "here", verbose=False)
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), *loaders)
    assert callback.influence.scores.shape == (240, CLASSES)


def test_own_train_loader_in_another_order_is_refused(tmp_path):
    train, val = datasets()
    backwards = TensorDataset(*(part.flip(0) for part in train.tensors))
    callback = ParetoCallback(train_dataloader=DataLoader(backwards, 30))
    with pytest.raises(ValueError, match="has other samples than the fit, or in another order: sample 0"):
        trainer(tmp_path, callback).fit(Plain(), datamodule=Data(train, val))
    augmented = TensorDataset(train.tensors[0] + 0.01, train.tensors[1])
    callback = ParetoCallback(train_dataloader=DataLoader(augmented, 30), verbose=False)
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data(train, val))


class Head(Plain):
    """Trains its last layer only, but leaves the others trainable."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.network[-1].parameters())


def test_parameters_without_an_optimizer_are_told(tmp_path):
    with pytest.warns(UserWarning, match=r"no optimizer has 2 of .*layers=\['!network\.0\.\*'\]"):
        trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=1).fit(Head(), datamodule=Data())
    trainer(tmp_path, ParetoCallback(layers=["network.3.*"], verbose=False), max_epochs=1).fit(
        Head(), datamodule=Data()
    )


def test_classes_that_are_numbered_differently_are_told(tmp_path):
    train, val = datasets()
    val.classes = ("east", "west", "south")
    with pytest.warns(UserWarning, match="the same label stands for different classes"):
        trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=1).fit(Plain(), datamodule=Data(train, val))
    named = ParetoCallback(class_names=list("enws"), verbose=False)
    trainer(tmp_path, named, max_epochs=1).fit(Plain(), datamodule=Data(train, val))
    val.classes = train.classes[:3]
    trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=1).fit(Plain(), datamodule=Data(train, val))


def test_validation_samples_that_are_trained_on_are_refused(tmp_path):
    whole = datasets()[0]
    data = Data(Subset(whole, range(200)), Subset(whole, range(150, 240)))
    with pytest.raises(ValueError, match="50 of 90 validation samples are training samples, too"):
        trainer(tmp_path, ParetoCallback()).fit(Plain(), datamodule=data)


class Chosen(Sampler):
    """Draws some samples, the same in every epoch or others."""

    def __init__(self, count, random):
        self.count, self.random, self.generator = count, random, torch.Generator().manual_seed(0)

    def __len__(self):
        return self.count

    def __iter__(self):
        order = torch.randperm(120, generator=self.generator) if self.random else torch.arange(120)
        return iter(order[: self.count].tolist())


@pytest.mark.parametrize("sampler", [Chosen(50, random=False), list(range(50)), range(50)])
def test_sampler_that_validates_on_a_part_is_refused(tmp_path, sampler):
    class Part(Data):
        def val_dataloader(self):
            return DataLoader(self.val, 50, sampler=sampler)

    with pytest.raises(TypeError, match="validation dataloader draws 50 of 120 samples by its sampler"):
        trainer(tmp_path, ParetoCallback()).fit(Plain(), datamodule=Part())


def test_sampler_that_draws_others_in_every_epoch_is_left_alone(tmp_path):
    sampler = Chosen(50, random=True)
    state = sampler.generator.get_state()

    class Part(Data):
        def val_dataloader(self):
            return DataLoader(self.val, 50, sampler=sampler)

    callback = ParetoCallback(verbose=False)
    fitted = trainer(tmp_path, callback, max_epochs=1, num_sanity_val_steps=0)
    fitted.fit(Plain(), datamodule=Part())
    assert callback.influence.support.sum() == 120
    expected = torch.Generator()
    expected.set_state(state)
    torch.randperm(120, generator=expected)  # for the only validation epoch
    assert torch.equal(sampler.generator.get_state(), expected.get_state()), "the check draws from a copy"


class Dealt(Chosen):
    """Draws others in every epoch, or a process's share."""

    def set_epoch(self, epoch):
        self.generator.manual_seed(epoch)


class Endless(Chosen):
    def __iter__(self):
        while True:
            yield from range(120)


class Shuffling(Chosen):
    """Shuffles a list of its own."""

    def __init__(self):
        super().__init__(50, random=False)
        self.order = list(range(120))

    def __iter__(self):
        random.shuffle(self.order)
        return iter(self.order)


@pytest.mark.parametrize("sampler", [Dealt(50, random=False), Endless(50, random=False), Chosen(50, random=True)])
def test_sampler_that_may_draw_others_is_not_judged(sampler):
    assert samples_chosen(sampler, range(120), "the loader") is None


def test_sampler_stays_as_it_is():
    assert samples_chosen(Chosen(50, random=False), range(120), "the loader") == set(range(50))
    sampler = Shuffling()
    assert samples_chosen(sampler, range(120), "the loader") == set(range(120))
    assert sampler.order == list(range(120))


class Batches(Chosen):
    """Draws whole batches of 16, as a batch sampler of one's own does."""

    def __iter__(self):
        return iter(torch.tensor(list(super().__iter__())).split(16))


@pytest.mark.parametrize(
    "batches", [BatchSampler(SubsetRandomSampler(range(50)), 16, False), Batches(50, False), [[1, 2], [0, 3]]]
)
@pytest.mark.parametrize("loader", ["train", "val"])
def test_batch_sampler_that_draws_a_part_is_refused(tmp_path, batches, loader):
    data = Data(*(TensorDataset(*(each[:120] for each in dataset.tensors)) for dataset in datasets()))
    setattr(data, f"{loader}_dataloader", lambda: DataLoader(getattr(data, loader), batch_sampler=batches))
    with pytest.raises(TypeError, match=r"dataloader draws \d+ of 120 samples by its sampler, a .*Subset"):
        trainer(tmp_path, ParetoCallback()).fit(Plain(), datamodule=data)


def test_batch_sampler_that_leaves_out_a_last_batch_or_draws_all_is_accepted():
    assert samples_chosen(Batches(112, random=False), range(120), "the loader") is None
    assert samples_chosen(Batches(120, random=False), range(120), "the loader") == set(range(120))


def test_sampler_that_cannot_be_read_ahead_is_told():
    sampler = Chosen(50, random=False)
    sampler.generator = (index for index in range(50))  # cannot be copied
    with pytest.warns(UserWarning, match="the Chosen of the loader cannot be read before the fit"):
        assert samples_chosen(sampler, range(120), "the loader") is None


class Unreadable(TensorDataset):
    """Has some samples that cannot be read."""

    def __getitem__(self, index):
        return None if index in (100, 205) else super().__getitem__(index)


def test_collate_function_that_drops_samples_ends_the_fit_with_the_first_batch_that_shows_it(tmp_path):
    def collate(samples):
        return default_collate([each for each in samples if each is not None])

    train, val = datasets()
    steps = CountSteps()
    fit = trainer(tmp_path, ParetoCallback(verbose=False), steps, max_epochs=3, num_sanity_val_steps=0)

    class Drops(Data):
        def train_dataloader(self):
            return DataLoader(self.train, 32, collate_fn=collate)  # 240 samples: the last batch is half a batch

    with pytest.raises(ValueError, match=r"has 31 labels for 32 samples.*must neither drop"):
        fit.fit(Plain(), datamodule=Drops(Unreadable(*train.tensors), val))
    assert steps.steps == 3
