"""The private names of Lightning that a second take relies on."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_pareto.integration.correction.epoch_rerun import SecondTake, sees_validation_first
from lightning_pareto.integration.correction.training_state import copied
from tests.integration._models import Data, Plain, trainer

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
    "_logger_connector.epoch_end_reached",
    "callbacks",
    "loggers",
]


def reach(start, name):
    for part in name.split("."):
        assert hasattr(start, part), f"Lightning {pl.__version__} has no {name} any more: see second_take.py"
        start = getattr(start, part)


class Reaches(Callback):
    reached = 0

    def on_train_epoch_end(self, trainer, pl_module):
        for name in NAMES:
            reach(trainer, name)
        self.reached += 1


def test_lightning_still_has_what_a_second_take_needs(tmp_path):
    callback = Reaches()
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data())
    assert callback.reached == 1


def test_a_missing_name_is_a_clear_failure():
    with pytest.raises(AssertionError, match=r"has no fit_loop.gone any more: see second_take.py"):
        reach(pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), "fit_loop.gone")


def test_callbacks_that_act_early_are_known(tmp_path):
    assert sees_validation_first(ModelCheckpoint(save_on_train_epoch_end=False))
    assert sees_validation_first(EarlyStopping("val_loss", check_on_train_epoch_end=False))
    assert not sees_validation_first(ModelCheckpoint())
    assert not sees_validation_first(EarlyStopping("val_loss"))


class TakesTwice(Callback):
    """Takes every epoch but the first again, with the trainer's own loader."""

    def __init__(self):
        self.order, self.counted = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.take = SecondTake(trainer)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.order.append((trainer.current_epoch, trainer.global_step, batch_idx))

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch > 0:
            assert self.take.run(trainer.train_dataloader)
        self.counted.append((trainer.current_epoch, trainer.global_step))


def test_counters_are_those_of_one_epoch(tmp_path):
    callback = TakesTwice()
    fitted = trainer(tmp_path, callback, max_epochs=3)
    fitted.fit(Plain(), datamodule=Data())
    epochs = [[(epoch, 8 * epoch + i, i) for i in range(8)] for epoch in range(3)]
    assert callback.order == [*epochs[0], *epochs[1], *epochs[1], *epochs[2], *epochs[2]]
    assert callback.counted == [(0, 8), (1, 16), (2, 24)]
    assert fitted.global_step == 24


class Logs(Plain):
    """Logs every step and the mean of the epoch."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


class Hears(DummyLogger):
    def __init__(self):
        super().__init__()
        self.heard = []

    def log_metrics(self, metrics, step=None):
        self.heard.append((dict(metrics), step))


class TakesTwiceAloud(TakesTwice):
    """Notes the losses of every take, and lets the loggers know of the second one."""

    def __init__(self):
        super().__init__()
        self.losses, self.silent, self.loggers = [], [], set()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append((float(outputs["loss"]), len(batch[0])))
        self.loggers.add(len(trainer.loggers))

    def on_train_epoch_end(self, trainer, pl_module):
        heard = len(trainer.logger.heard)
        super().on_train_epoch_end(trainer, pl_module)
        self.silent.append(len(trainer.logger.heard) == heard)
        self.take.tell_loggers()


def test_every_logger_is_told_the_second_validation_at_the_step_of_the_first(tmp_path):
    loggers, callback = [Hears(), Hears()], TakesTwiceAloud()
    fitted = trainer(tmp_path, callback, max_epochs=2, logger=loggers, log_every_n_steps=1)
    fitted.fit(Logs(), datamodule=Data())
    assert callback.silent == [True, True]
    assert callback.loggers == {2}, "a module may speak to each by its number"
    assert loggers[0].heard == loggers[1].heard
    validations = [(metrics, step) for metrics, step in loggers[0].heard if "val_loss" in metrics]
    assert [step for _, step in validations] == [7, 15, 15]
    assert [set(metrics) for metrics, _ in validations] == [{"val_loss", "epoch"}] * 3
    assert validations[1][0]["val_loss"] != validations[2][0]["val_loss"] == fitted.callback_metrics["val_loss"]
    assert sum("loss_step" in metrics for metrics, _ in loggers[0].heard) == 16, "those of the ordinary takes"


def test_the_mean_of_an_epoch_is_that_of_its_second_take(tmp_path):
    callback = TakesTwiceAloud()
    fitted = trainer(tmp_path, callback, max_epochs=2, logger=[Hears()])
    fitted.fit(Logs(), datamodule=Data())
    assert len(callback.losses) == 24
    total = sum(loss * size for loss, size in callback.losses[-8:]) / 240
    assert float(fitted.callback_metrics["loss_epoch"]) == pytest.approx(total, rel=1e-5)


def test_early_stopping_on_validation_counts_an_epoch_once(tmp_path):
    stopping = EarlyStopping("val_loss", min_delta=1e9, patience=50, check_on_train_epoch_end=False)
    trainer(tmp_path, TakesTwice(), stopping, max_epochs=3).fit(Plain(), datamodule=Data())
    assert stopping.wait_count == 2, "the first epoch is an improvement"


def test_a_copy_shares_nothing():
    state = {"a": torch.ones(2), "b": [torch.zeros(1), {"c": torch.ones(1)}], "d": (1, "x")}
    twin = copied(state)
    state["a"].add_(1)
    state["b"][1]["c"].add_(1)
    assert twin["a"].tolist() == [1, 1]
    assert twin["b"][1]["c"].tolist() == [1]
    assert twin["d"] == (1, "x")
