"""An epoch that Lightning's own loop runs a second time: its counters, its loggers and its metrics."""

import pytest
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_pareto.integration.correction.epoch_rerun import EpochRerun
from tests.integration._models import Data, Plain, trainer


class Reruns(Callback):
    """Reruns every epoch but the first, with the trainer's own loader."""

    def __init__(self):
        self.order, self.counted = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.rerun = EpochRerun(trainer, besides=self)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.order.append((trainer.current_epoch, trainer.global_step, batch_idx))

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch > 0:
            assert self.rerun.run(trainer.train_dataloader)
        self.counted.append((trainer.current_epoch, trainer.global_step))


def test_counters_are_those_of_one_epoch(tmp_path):
    callback = Reruns()
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


class Remembers(DummyLogger):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.logged = []

    def log_metrics(self, metrics, step=None):
        self.logged.append((dict(metrics), step))


class RerunsAndReplays(Reruns):
    """Notes the losses of all runs, and logs the validation of the rerun afterwards."""

    def __init__(self):
        super().__init__()
        self.losses, self.silent, self.loggers = [], [], set()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append((float(outputs["loss"]), len(batch[0])))
        self.loggers.add(len(trainer.loggers))

    def on_train_epoch_end(self, trainer, pl_module):
        before = len(trainer.logger.logged)
        super().on_train_epoch_end(trainer, pl_module)
        self.silent.append(len(trainer.logger.logged) == before)
        self.rerun.replay_validation()


def test_every_logger_gets_the_second_validation_at_the_step_of_the_first(tmp_path):
    loggers, callback = [Remembers(), Remembers()], RerunsAndReplays()
    fitted = trainer(tmp_path, callback, max_epochs=2, logger=loggers, log_every_n_steps=1)
    fitted.fit(Logs(), datamodule=Data())
    assert callback.silent == [True, True]
    assert callback.loggers == {2}, "a module may address each by its number"
    assert loggers[0].logged == loggers[1].logged
    validations = [(metrics, step) for metrics, step in loggers[0].logged if "val_loss" in metrics]
    assert [step for _, step in validations] == [7, 15, 15]
    assert [set(metrics) for metrics, _ in validations] == [{"val_loss", "epoch"}] * 3
    assert validations[1][0]["val_loss"] != validations[2][0]["val_loss"] == fitted.callback_metrics["val_loss"]
    assert sum("loss_step" in metrics for metrics, _ in loggers[0].logged) == 16, "those of the ordinary epochs"


def test_mean_of_an_epoch_is_that_of_its_rerun(tmp_path):
    callback = RerunsAndReplays()
    fitted = trainer(tmp_path, callback, max_epochs=2, logger=[Remembers()])
    fitted.fit(Logs(), datamodule=Data())
    assert len(callback.losses) == 24
    total = sum(loss * size for loss, size in callback.losses[-8:]) / 240
    assert float(fitted.callback_metrics["loss_epoch"]) == pytest.approx(total, rel=1e-5)


def test_early_stopping_on_validation_counts_an_epoch_once(tmp_path):
    stopping = EarlyStopping("val_loss", min_delta=1e9, patience=50, check_on_train_epoch_end=False)
    trainer(tmp_path, Reruns(), stopping, max_epochs=3).fit(Plain(), datamodule=Data())
    assert stopping.wait_count == 2, "the first epoch is an improvement"
