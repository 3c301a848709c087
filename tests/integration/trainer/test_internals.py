"""The private names of Lightning that this package relies on: an upgrade that removes one fails here first."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto.integration.trainer.internals import (
    acts_on_validation_at_once,
    is_compiled,
    logging_step,
    loop_state,
    remember_dataset,
    restore_loop_state,
    set_up_validation,
    validation_dataloaders,
)
from tests.integration._models import Data, Plain, datasets, trainer

NAMES = [
    "fit_loop._data_fetcher",
    "fit_loop._combined_loader.flattened",
    "fit_loop.is_resuming",
    "fit_loop.epoch_progress.current.processed",
    "fit_loop.epoch_loop._results",
    "fit_loop.epoch_loop._batches_that_stepped",
    "fit_loop.epoch_loop.run",
    "fit_loop.epoch_loop.batch_progress.is_last_batch",
    "fit_loop.epoch_loop.scheduler_progress",
    "fit_loop.epoch_loop.automatic_optimization.optim_progress",
    "fit_loop.epoch_loop.manual_optimization.optim_step_progress",
    "fit_loop.epoch_loop.val_loop.batch_progress",
    "fit_loop.epoch_loop.val_loop.setup_data",
    "fit_loop.epoch_loop.val_loop._combined_loader._mode",
    "validate_loop._combined_loader",
    "_logger_connector.epoch_end_reached",
    "callbacks",
    "loggers",
]


def reach(start, name):
    for part in name.split("."):
        assert hasattr(start, part), f"Lightning {pl.__version__} has no {name} any more: see trainer/internals.py"
        start = getattr(start, part)


class Reaches(Callback):
    """Looks for all names while a fit is running."""

    reached = 0

    def on_train_epoch_end(self, trainer, pl_module):
        for name in NAMES:
            reach(trainer, name)
        self.reached += 1


def test_lightning_still_has_these_names(tmp_path):
    callback = Reaches()
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data())
    assert callback.reached == 1


def test_a_missing_name_is_a_clear_failure():
    with pytest.raises(AssertionError, match=r"has no fit_loop.gone any more: see trainer/internals.py"):
        reach(pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), "fit_loop.gone")


def test_callbacks_that_act_before_the_end_of_an_epoch_are_known():
    assert acts_on_validation_at_once(ModelCheckpoint(save_on_train_epoch_end=False))
    assert acts_on_validation_at_once(EarlyStopping("val_loss", check_on_train_epoch_end=False))
    assert not acts_on_validation_at_once(ModelCheckpoint())
    assert not acts_on_validation_at_once(EarlyStopping("val_loss"))


class Looks(Callback):
    """Notes what a callback finds at the start and at the end of training."""

    def __init__(self):
        self.loaders, self.steps = [], []

    def on_train_start(self, trainer, pl_module):
        self.loaders.append(validation_dataloaders(trainer))
        set_up_validation(trainer)
        self.loaders.append(validation_dataloaders(trainer))

    def on_validation_end(self, trainer, pl_module):
        self.steps.append((logging_step(trainer), trainer.global_step))


def test_validation_loaders_are_created_on_request(tmp_path):
    looks = Looks()
    options = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2}  # else they are there at the start
    trainer(tmp_path, looks, **options).fit(Plain(), datamodule=Data())
    before, after = looks.loaders
    assert before is None
    assert len(after.dataset) == 120


def test_validation_loaders_of_validate_are_not_those_of_the_fit(tmp_path):
    class Notes(Callback):
        def on_validation_end(self, trainer, pl_module):
            self.size = len(validation_dataloaders(trainer).dataset)

    notes, model = Notes(), Plain()
    fitted = trainer(tmp_path, notes, max_epochs=1)
    fitted.fit(model, datamodule=Data())
    assert notes.size == 120
    other = TensorDataset(*(part[:70] for part in datasets()[1].tensors))
    fitted.validate(model, DataLoader(other, batch_size=32), verbose=False)
    assert notes.size == 70


class TwoOptimizers(Plain):
    """Steps twice with each batch, which ``global_step`` counts and Lightning's loggers do not."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [super().configure_optimizers(), super().configure_optimizers()]


def test_logging_step_counts_batches(tmp_path):
    looks = Looks()
    trainer(tmp_path, looks, max_epochs=2, num_sanity_val_steps=0).fit(TwoOptimizers(), datamodule=Data())
    assert looks.steps == [(7, 16), (15, 32)], "the numbers of the last batches"


class RemembersTheLoop(Callback):
    """Keeps the state of the loop at the beginning of an epoch and restores it at the end."""

    def on_train_epoch_start(self, trainer, pl_module):
        self.beginning = copy.deepcopy({**loop_state(trainer), "results": None})
        self.results = loop_state(trainer)["results"]

    def on_train_epoch_end(self, trainer, pl_module):
        self.end = loop_state(trainer)
        restore_loop_state(trainer, {**self.beginning, "results": self.results})
        self.restored = loop_state(trainer)
        restore_loop_state(trainer, self.end)


def test_state_of_the_loop_is_restored(tmp_path):
    callback = RemembersTheLoop()
    fitted = trainer(tmp_path, callback, max_epochs=2)
    fitted.fit(Plain(), datamodule=Data())
    assert callback.beginning["stepped"] == 8
    assert callback.end["stepped"] == 16
    assert callback.restored["stepped"] == 8
    assert callback.restored["counters"] == callback.beginning["counters"] != callback.end["counters"]
    assert callback.restored["results"] is callback.results
    assert fitted.global_step == 16


def test_other_loaders_remember_no_dataset():
    loader, other = DataLoader(range(3)), range(4)
    for name in [name for name in vars(loader) if name.startswith("__")]:
        del vars(loader)[name]  # Lightning leaves DataLoader patched after an error in a user's loader
    remember_dataset(loader, loader.dataset, other)
    assert not [name for name in vars(loader) if name.startswith("__")]
    vars(loader).update({"__pl_saved_args": (loader.dataset, 2), "__pl_saved_kwargs": {"sampler": None}})
    remember_dataset(loader, loader.dataset, other)
    assert vars(loader)["__pl_saved_args"] == (other, 2)
    assert vars(loader)["__dataset"] is other


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
def test_compiled_modules_and_parts_are_known():
    part = Plain()
    part.network[0] = torch.compile(part.network[0])
    in_place = Plain()
    in_place.network.compile()
    assert [is_compiled(module) for module in (Plain(), part, in_place, torch.compile(Plain()))] == [False, *[True] * 3]
