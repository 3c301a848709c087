"""A trial is an ordinary fit that leaves nothing but its result."""

import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from lightning_pareto import ParetoCallback, SampleWeights
from lightning_pareto.data.synthetic import gaussian_classes
from lightning_pareto.integration.tuner.trainer_factory import TrainerFactory
from lightning_pareto.integration.tuner.trials import Trial, Trials
from tests.integration._models import CLASSES, Data, Plain, trainer

EPOCHS = 4


class Scheduled(Plain):
    """Momentum and a schedule that ends with the fit: a further epoch needs the state of both. No dropout."""

    def __init__(self, lr=0.05):
        super().__init__(lr)
        self.network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams["lr"], total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class InOrder(Data):
    """Training samples in index order, so that fits with other random states agree."""

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32)


def module(kind=Scheduled):
    torch.manual_seed(0)
    return kind()


def trials_in(tmp_path, *callbacks, data=None, model=None, seed=0, **options):
    return Trials(
        lambda: trainer(tmp_path / "user", *callbacks, max_epochs=EPOCHS, **options),
        model or module(),
        data or InOrder(),
        ParetoCallback(),
        tmp_path / "trials",
        seed,
    )


def first(name="first", **options):
    return Trial(name, "initial", None, keeps=True, **options)


def weights_in(path):
    return torch.load(path, weights_only=True)["state_dict"]


class Falling(Scheduled):
    """A schedule of the whole length of the fit that is no part of a checkpoint, as those of transformers."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.parametrize("kind", [Scheduled, Falling])
@pytest.mark.parametrize("saved", ["epoch end", "validation end"])
def test_an_epoch_from_a_checkpoint_is_that_of_the_uninterrupted_fit(tmp_path, saved, kind):
    """Bit for bit, with optimizer and schedule; whenever the checkpoint was saved."""
    kept = ModelCheckpoint(
        tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=saved == "epoch end", monitor=None
    )
    if saved == "validation end":
        kept = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, monitor="val_loss", save_on_train_epoch_end=False)
    whole = trainer(tmp_path, kept, max_epochs=EPOCHS, enable_checkpointing=True)
    whole.fit(module(kind), datamodule=InOrder())
    start, end = tmp_path / "epoch=1.ckpt", tmp_path / "epoch=2.ckpt"
    trials = trials_in(tmp_path, model=module(kind))
    result = trials.run(Trial("step", "checkpoint", 1, checkpoint=start, keeps=True))
    assert result.epochs == 1
    found, expected = weights_in(result.checkpoint), weights_in(end)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_outcome_is_that_of_the_best_epoch(tmp_path):
    data = InOrder()
    result = trials_in(tmp_path, data=data).run(first())
    model = module()
    model.load_state_dict(weights_in(result.checkpoint))
    x, y = data.val.tensors
    logits = model(x)
    np.testing.assert_array_equal(result.outcome.category, y)
    np.testing.assert_array_equal(result.outcome.correct, logits.argmax(1) == y)
    np.testing.assert_allclose(
        result.outcome.probability, logits.softmax(1)[torch.arange(len(y)), y].detach(), rtol=1e-5
    )
    assert len(result.history) == EPOCHS
    assert result.outcome.macro == pytest.approx(result.history.max(), abs=1e-6)
    assert result.history[result.best_epoch - 1] == result.history.max()
    assert result.next_checkpoint.name != f"epoch={EPOCHS - 1}.ckpt"


def test_nothing_but_the_folder_is_written_and_the_model_stays(tmp_path):
    loud = CSVLogger(tmp_path / "logs")
    watching = (ModelCheckpoint(tmp_path / "mine", monitor="val_loss"), LearningRateMonitor())
    model = module()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    trials = trials_in(tmp_path, *watching, model=model, logger=loud, enable_checkpointing=True)
    trials.run(first())
    assert torch.rand(1) == expected  # the user's random numbers go on as they were
    assert {path.name for path in tmp_path.iterdir()} == {"trials"}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_early_stopping_takes_part_in_whole_fits_only(tmp_path):
    def stopping():
        return EarlyStopping("val_loss", patience=1, min_delta=100.0)

    trials = trials_in(tmp_path, data=InOrder())
    trials.factory = TrainerFactory(lambda: trainer(tmp_path, stopping(), max_epochs=EPOCHS))
    whole = trials.run(first())
    assert whole.epochs == 2
    step = Trial("step", "checkpoint", 1, checkpoint=whole.next_checkpoint)
    assert trials.run(step).epochs == 1
    assert trials.run(Trial("look", "checkpoint", 0, checkpoint=whole.checkpoint)).epochs == 0


def test_a_look_at_a_checkpoint_trains_nothing(tmp_path):
    trials = trials_in(tmp_path)
    whole = trials.run(first())
    look = Trial("influence", "checkpoint", 0, checkpoint=whole.checkpoint, analyse="loss")
    np.testing.assert_array_equal(trials.run(look).outcome.correct, whole.outcome.correct)
    assert trials.influence(look).scores.shape == (240, CLASSES)
    assert trials.epochs_spent == EPOCHS


def test_finished_trials_are_read_back(tmp_path):
    one = trials_in(tmp_path).run(first())
    again = trials_in(tmp_path, model=Scheduled())  # another random start: that of the first is restored

    def forbidden():
        raise AssertionError("no Trainer is needed")

    again.factory = forbidden
    two = again.run(first())
    np.testing.assert_array_equal(one.outcome.probability, two.outcome.probability)
    assert two.checkpoint == one.checkpoint
    assert again.epochs_spent == EPOCHS


def test_other_options_are_other_trials(tmp_path):
    one = trials_in(tmp_path).run(first())
    slower = trials_in(tmp_path, model=Scheduled(lr=0.001)).run(first())
    assert not np.array_equal(one.outcome.probability, slower.outcome.probability)


def test_another_fingerprint_is_another_search(tmp_path):
    def identity(folder, **options):
        callback = ParetoCallback()
        return Trials(lambda: trainer(tmp_path), module(), Data(), callback, tmp_path / folder, 0, **options)._identity

    assert identity("a") == identity("b") != identity("c", fingerprint="new categories")


def test_weights_reach_the_fit(tmp_path):
    """Without any sample of class 0, the model does not predict it."""
    data = Data()
    y = data.train.tensors[1].numpy()
    weights = SampleWeights(np.where(y == 0, 0.0, len(y) / (y != 0).sum()))
    result = trials_in(tmp_path, data=data).run(first(weights=weights))
    assert result.outcome.accuracy[0] == 0
    assert result.outcome.accuracy[1:].min() > 0.5


class SplitsAnew(pl.LightningDataModule):
    """As in many a project, with a split that differs from call to call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def setup(self, stage):
        self.calls += 1
        whole = Data().train
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(self.calls)).tolist()
        self.train, self.val = (torch.utils.data.Subset(whole, part) for part in (order[:160], order[160:]))

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=32)


def test_other_training_data_than_those_of_the_influence_are_refused(tmp_path):
    trials = trials_in(tmp_path, data=SplitsAnew())
    whole = trials.run(first())
    look = Trial("influence", "checkpoint", 0, checkpoint=whole.checkpoint, analyse="loss")
    with pytest.raises(ValueError, match=r"not those of the trials before.*seeded generator"):
        trials.run(look)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: None, "has to make a lightning.pytorch Trainer"),
        (lambda path: trainer(path, max_epochs=-1), "number of epochs"),
        (lambda path: trainer(path, max_steps=5), "not by max_steps"),
        (lambda path: trainer(path, max_time="00:00:01:00"), "not by max_steps or max_time"),
        (lambda path: trainer(path, fast_dev_run=True), "whole fits"),
        (lambda path: trainer(path, check_val_every_n_epoch=5), "check_val_every_n_epoch=1"),
    ],
)
def test_a_wrong_factory(tmp_path, make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        TrainerFactory(lambda: make(tmp_path))()


def test_a_factory_that_makes_one_trainer_only(tmp_path):
    one = trainer(tmp_path, max_epochs=1)
    factory = TrainerFactory(lambda: one)
    factory()
    with pytest.raises(TypeError, match="the same Trainer twice"):
        factory()


def test_a_factory_whose_trainers_share_what_a_callback_remembers(tmp_path):
    stopping, monitor = EarlyStopping("val_loss"), LearningRateMonitor()
    TrainerFactory(lambda: trainer(tmp_path, monitor))()
    factory = TrainerFactory(lambda: trainer(tmp_path, stopping, monitor))
    factory()
    with pytest.raises(TypeError, match=r"make it in the function, lambda: pl.Trainer\(callbacks=\[EarlyStopping"):
        factory()


class ConfiguresCallbacks(Scheduled):
    def configure_callbacks(self):
        return [EarlyStopping("val_loss", patience=1, min_delta=100.0), ModelCheckpoint(monitor="val_loss")]


def test_callbacks_of_the_module_are_sifted_too(tmp_path):
    trials = trials_in(tmp_path, model=module(ConfiguresCallbacks))
    whole = trials.run(first())
    assert (whole.epochs, whole.checkpoint is not None) == (2, True)
    assert trials.run(Trial("step", "checkpoint", 1, checkpoint=whole.next_checkpoint)).epochs == 1


@pytest.mark.parametrize("least", [{"min_epochs": EPOCHS}, {"min_steps": 8 * EPOCHS}])
def test_a_least_length_does_not_turn_a_look_into_training(tmp_path, least):
    trials = trials_in(tmp_path, **least)
    whole = trials.run(first())
    look = trials.run(Trial("look", "checkpoint", 0, checkpoint=whole.next_checkpoint, keeps=True))
    before, after = weights_in(whole.next_checkpoint), weights_in(look.checkpoint)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert trials.run(Trial("step", "checkpoint", 1, checkpoint=whole.next_checkpoint)).epochs == 1


def test_a_module_that_cannot_be_copied(tmp_path):
    model = module()
    model.stream = (x for x in ())
    with pytest.raises(TypeError, match=r"copy\.deepcopy failed"):
        trials_in(tmp_path, model=model).run(first())


def test_processes_and_runs_agree_on_what_a_search_is(tmp_path):
    """A set of strings has another order in every process."""
    code = (
        "from pathlib import Path; import torch; from tests.integration.tuner.test_trials import *; m = module(); "
        "m.hparams.update(labels={'a', 'b', 'c', 'd'}, layer=torch.nn.Linear(2, 2)); "
        f"print(trials_in(Path({str(tmp_path)!r}), model=m)._identity)"
    )
    root = Path(__file__).parents[3]
    runs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_an_interrupted_trial_is_made_again(tmp_path):
    class Interrupts(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise RuntimeError("power cut")

    trials = trials_in(tmp_path, Interrupts())
    with pytest.raises(RuntimeError, match="power cut"):
        trials.run(first())
    whole = trials_in(tmp_path).run(first())
    undisturbed = trials_in(tmp_path / "other").run(first())
    np.testing.assert_array_equal(whole.outcome.probability, undisturbed.outcome.probability)


def test_a_fit_on_validation_data_takes_what_the_callback_was_told_of_the_training_data(tmp_path):
    """A loader of the training data alone and names that only those have: influence needs them, this fit does not."""
    data = InOrder(val=gaussian_classes(40, seed=2).dataset())
    trials = Trials(
        lambda: trainer(tmp_path, max_epochs=1),
        module(),
        data,
        ParetoCallback(train_dataloader=DataLoader(data.train, batch_size=32)),
        tmp_path / "trials",
        seed=0,
        targets=["east"],
    )
    trials.run(first())
    half = np.arange(40) < 20
    result = trials.run(first("half", joins=half))
    assert len(result.outcome.category) == 20
