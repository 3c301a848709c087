"""Trials: fits of new Trainers that leave nothing but their results."""

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
from lightning_pareto.datasets import gaussian_classes
from lightning_pareto.integration.tuner.project import Project
from lightning_pareto.integration.tuner.trainer_factory import TrainerFactory
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trials import Trials
from tests.integration._models import CLASSES, Data, Plain, trainer

EPOCHS = 4


class Scheduled(Plain):
    """Has momentum and a schedule that ends with the fit: another epoch needs the state of both. No dropout."""

    def __init__(self, lr=0.05):
        super().__init__(lr)
        self.network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams["lr"], total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class InOrder(Data):
    """Reads the training samples in index order, so fits with different random states agree."""

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32)


def module(kind=Scheduled):
    torch.manual_seed(0)
    return kind()


def trials_in(tmp_path, *callbacks, data=None, model=None, seed=0, **options):
    project = Project(
        trainer_factory=lambda: trainer(tmp_path / "user", *callbacks, max_epochs=EPOCHS, **options),
        module=model or module(),
        datamodule=data or InOrder(),
        callback=ParetoCallback(),
        seed=seed,
    )
    return Trials(project, tmp_path / "trials")


def first(name="first", **options):
    return Trial(name, "initial", None, keeps=True, **options)


def weights_in(path):
    return torch.load(path, weights_only=True)["state_dict"]


class Falling(Scheduled):
    """Has a schedule over the complete fit whose length is not in a checkpoint, like those of transformers."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.parametrize("kind", [Scheduled, Falling])
@pytest.mark.parametrize("saved", ["epoch end", "validation end"])
def test_epoch_from_a_checkpoint_equals_that_of_the_uninterrupted_fit(tmp_path, saved, kind):
    """Bit for bit, including optimizer and schedule, whenever the checkpoint was saved."""
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


def test_outcome_is_that_of_the_best_epoch(tmp_path):
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


def test_only_the_folder_is_written_and_the_model_is_unchanged(tmp_path):
    loud = CSVLogger(tmp_path / "logs")
    watching = (ModelCheckpoint(tmp_path / "mine", monitor="val_loss"), LearningRateMonitor())
    model = module()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    trials = trials_in(tmp_path, *watching, model=model, logger=loud, enable_checkpointing=True)
    trials.run(first())
    assert torch.rand(1) == expected  # the user's random state is unchanged
    assert {path.name for path in tmp_path.iterdir()} == {"trials"}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_early_stopping_takes_part_only_in_whole_fits(tmp_path):
    def stopping():
        return EarlyStopping("val_loss", patience=1, min_delta=100.0)

    trials = trials_in(tmp_path, data=InOrder())
    trials.factory = TrainerFactory(lambda: trainer(tmp_path, stopping(), max_epochs=EPOCHS))
    whole = trials.run(first())
    assert whole.epochs == 2
    step = Trial("step", "checkpoint", 1, checkpoint=whole.next_checkpoint)
    assert trials.run(step).epochs == 1
    assert trials.run(Trial("look", "checkpoint", 0, checkpoint=whole.checkpoint)).epochs == 0


def test_trial_of_no_epochs_trains_nothing(tmp_path):
    trials = trials_in(tmp_path)
    whole = trials.run(first())
    look = Trial("influence", "checkpoint", 0, checkpoint=whole.checkpoint, analyse="loss")
    np.testing.assert_array_equal(trials.run(look).outcome.correct, whole.outcome.correct)
    assert trials.influence(look).scores.shape == (240, CLASSES)
    assert trials.epochs_spent == EPOCHS


def test_finished_trials_are_read_from_disk(tmp_path):
    one = trials_in(tmp_path).run(first())
    again = trials_in(tmp_path, model=Scheduled())  # its random start is replaced by that of the first

    def forbidden():
        raise AssertionError("no Trainer is needed")

    again.factory = forbidden
    two = again.run(first())
    np.testing.assert_array_equal(one.outcome.probability, two.outcome.probability)
    assert two.checkpoint == one.checkpoint
    assert again.epochs_spent == EPOCHS


def test_other_hyper_parameters_make_another_search(tmp_path):
    one = trials_in(tmp_path).run(first())
    slower = trials_in(tmp_path, model=Scheduled(lr=0.001)).run(first())
    assert not np.array_equal(one.outcome.probability, slower.outcome.probability)


@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "new categories"},
        {"seed": 1},
        {"callback": ParetoCallback(budget=0.3)},
        {"callback": ParetoCallback(damping=0.5)},
        {"callback": ParetoCallback(class_names=list("abcd"))},
        {"callback": ParetoCallback(val_dataloader_idx=1)},
        {"trainer_factory": lambda: trainer(None, max_epochs=EPOCHS + 1)},
        {"trainer_factory": lambda: trainer(None, max_epochs=EPOCHS, accumulate_grad_batches=2)},
        {"module": Plain()},
        {"module": Scheduled(lr=0.01)},
        {"datamodule": InOrder()},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_makes_another_search(tmp_path, other):
    def identity(folder, **options):
        project = {
            "trainer_factory": lambda: trainer(None, max_epochs=EPOCHS),
            "module": module(),
            "datamodule": Data(),
            "callback": ParetoCallback(),
        }
        return Trials(Project(**{**project, **options}), tmp_path / folder)._identity

    assert identity("a") == identity("b") != identity("c", **other)


def test_search_resumes_only_under_its_fingerprint(tmp_path):
    """Where only code has changed, the user's fingerprint alone keeps finished trials from being used again."""

    def run(fingerprint):
        ran = []
        project = Project(
            trainer_factory=lambda: ran.append(1) or trainer(tmp_path, max_epochs=1),
            module=module(),
            datamodule=InOrder(),
            callback=ParetoCallback(),
            fingerprint=fingerprint,
        )
        trials = Trials(project, tmp_path / "trials")
        before = len(ran)
        trials.run(first())
        return trials.resumed, len(ran) - before

    assert run("one") == (False, 1)
    assert run("one") == (True, 0)
    assert run("two") == (True, 1)


def test_weights_reach_the_fit(tmp_path):
    """Without samples of class 0, the model never predicts it."""
    data = Data()
    y = data.train.tensors[1].numpy()
    weights = SampleWeights(np.where(y == 0, 0.0, len(y) / (y != 0).sum()))
    result = trials_in(tmp_path, data=data).run(first(weights=weights))
    assert result.outcome.accuracy[0] == 0
    assert result.outcome.accuracy[1:].min() > 0.5


class SplitsAnew(pl.LightningDataModule):
    """Splits at random without a seed, as many projects do."""

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


def test_data_that_differ_from_those_of_earlier_trials_are_refused(tmp_path):
    trials = trials_in(tmp_path, data=SplitsAnew())
    whole = trials.run(first())
    look = Trial("influence", "checkpoint", 0, checkpoint=whole.checkpoint, analyse="loss")
    with pytest.raises(
        ValueError, match=r"not those of the earlier trials.*ParetoTuner\(…, dirpath=…\).*seeded generator"
    ):
        trials.run(look)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: None, r"must return a lightning.pytorch Trainer, found NoneType.*lambda: pl.Trainer"),
        (lambda path: trainer(path, max_epochs=-1), "number of epochs"),
        (lambda path: trainer(path, max_steps=5), "not by max_steps"),
        (lambda path: trainer(path, max_time="00:00:01:00"), "not by max_steps or max_time"),
        (lambda path: trainer(path, fast_dev_run=True), "complete fits"),
        (lambda path: trainer(path, check_val_every_n_epoch=5), "check_val_every_n_epoch=1"),
    ],
)
def test_wrong_factory_is_refused(tmp_path, make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        TrainerFactory(lambda: make(tmp_path))()


def test_factory_that_returns_the_same_trainer_is_refused(tmp_path):
    one = trainer(tmp_path, max_epochs=1)
    factory = TrainerFactory(lambda: one)
    factory()
    with pytest.raises(TypeError, match="the same Trainer twice"):
        factory()


def test_factory_whose_trainers_share_a_callback_with_state_is_refused(tmp_path):
    stopping, monitor = EarlyStopping("val_loss"), LearningRateMonitor()
    TrainerFactory(lambda: trainer(tmp_path, monitor))()
    factory = TrainerFactory(lambda: trainer(tmp_path, stopping, monitor))
    factory()
    with pytest.raises(TypeError, match=r"Create it in the function: lambda: pl.Trainer\(callbacks=\[EarlyStopping"):
        factory()


class ConfiguresCallbacks(Scheduled):
    def configure_callbacks(self):
        return [EarlyStopping("val_loss", patience=1, min_delta=100.0), ModelCheckpoint(monitor="val_loss")]


def test_callbacks_of_the_module_are_filtered_too(tmp_path):
    trials = trials_in(tmp_path, model=module(ConfiguresCallbacks))
    whole = trials.run(first())
    assert (whole.epochs, whole.checkpoint is not None) == (2, True)
    assert trials.run(Trial("step", "checkpoint", 1, checkpoint=whole.next_checkpoint)).epochs == 1


@pytest.mark.parametrize("least", [{"min_epochs": EPOCHS}, {"min_steps": 8 * EPOCHS}])
def test_minimum_length_does_not_apply_to_trials_from_a_checkpoint(tmp_path, least):
    trials = trials_in(tmp_path, **least)
    whole = trials.run(first())
    look = trials.run(Trial("look", "checkpoint", 0, checkpoint=whole.next_checkpoint, keeps=True))
    before, after = weights_in(whole.next_checkpoint), weights_in(look.checkpoint)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert trials.run(Trial("step", "checkpoint", 1, checkpoint=whole.next_checkpoint)).epochs == 1


def test_module_that_cannot_be_copied_is_refused(tmp_path):
    model = module()
    model.stream = (x for x in ())
    with pytest.raises(TypeError, match=r"copy\.deepcopy failed"):
        trials_in(tmp_path, model=model).run(first())


@pytest.mark.slow
def test_processes_agree_on_the_identity_of_a_search(tmp_path):
    """A set of strings has another order in each process."""
    code = (
        "from pathlib import Path; import torch; from tests.integration.tuner.test_trials import *; m = module(); "
        "m.hparams.update(labels={'a', 'b', 'c', 'd'}, layer=torch.nn.Linear(2, 2)); "
        f"print(trials_in(Path({str(tmp_path)!r}), model=m)._identity)"
    )
    root = Path(__file__).parents[3]
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    model = module()
    model.hparams.update(labels={"a", "b", "c", "d"}, layer=torch.nn.Linear(2, 2))
    assert other.split() == [trials_in(tmp_path, model=model)._identity]


def test_interrupted_trial_is_run_again(tmp_path):
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


def test_fit_on_validation_data_ignores_what_is_about_the_training_data(tmp_path):
    """Influence needs the loader of the training data and their class names, this fit needs neither."""
    data = InOrder(val=gaussian_classes(40, seed=2).dataset())
    project = Project(
        trainer_factory=lambda: trainer(tmp_path, max_epochs=1),
        module=module(),
        datamodule=data,
        callback=ParetoCallback(train_dataloader=DataLoader(data.train, batch_size=32)),
        targets=["east"],
    )
    trials = Trials(project, tmp_path / "trials")
    trials.run(first())
    half = np.arange(40) < 20
    result = trials.run(first("half", joins=half))
    assert len(result.outcome.category) == 20


class LogsTheMean(Plain):
    """Logs a quantity of its own under the callback's usual name."""

    def on_validation_epoch_end(self):
        self.log("val_accuracy_macro", 0.123)


def test_trials_log_under_the_prefix_of_the_callback(tmp_path):
    project = Project(
        trainer_factory=lambda: trainer(tmp_path / "user", max_epochs=2),
        module=module(LogsTheMean),
        datamodule=InOrder(),
        callback=ParetoCallback(prefix="val_class_", verbose=False),
    )
    result = Trials(project, tmp_path / "trials").run(first())
    assert len(result.history) == 2
    assert result.history.max() == pytest.approx(result.outcome.macro), "of the best epoch"


def test_loss_of_the_step_is_compared_before_influence(tmp_path):
    class Smoothed(Scheduled):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return nn.functional.cross_entropy(self(x), y, label_smoothing=0.3)

    trials = trials_in(tmp_path, model=module(Smoothed))
    fit = trials.run(first())
    with pytest.warns(UserWarning, match="training_step has another loss than the one whose influence"):
        trials.run(Trial("influence", "checkpoint", 0, fit.checkpoint, analyse=True))
