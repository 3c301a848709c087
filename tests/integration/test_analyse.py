"""The analysis of a trained model, without a fit."""

import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from lightning_pareto import InfluenceMatrix, ParetoCallback, analyse, compare_models, estimate_influence
from lightning_pareto.command_line import main
from tests._asserts import assert_near
from tests._tolerances import TWO_PROCESSES
from tests.integration._models import Data, Plain, trainer


def seeded(lr=0.05):
    torch.manual_seed(0)
    return Plain(lr)


class Untrained(Plain):
    """Must neither be trained nor validated, and its optimizer takes no step."""

    def on_before_optimizer_step(self, optimizer):
        raise AssertionError("nothing is to be trained")

    def on_train_start(self):
        raise AssertionError("nothing is to be trained")


class Forbidden(Callback):
    """Takes part in fits only."""

    def on_fit_start(self, trainer, pl_module):
        raise AssertionError("takes no part")


def test_analysis_equals_that_of_the_callback_after_the_fit(tmp_path):
    model, data, fitted = seeded(), Data(), trainer(tmp_path, callback := ParetoCallback(verbose=False))
    fitted.fit(model, datamodule=data)
    found = analyse(model, data, trainer(tmp_path), verbose=False)
    np.testing.assert_array_equal(found.influence.scores, callback.influence.scores)
    assert str(found) == str(callback.analysis)
    assert str(found.verdict) == str(callback.verdict)
    assert found.folder == tmp_path / "pareto_1"
    assert InfluenceMatrix.load(found.folder / "influence.safetensors").category_names == data.train.classes
    assert (found.folder / "report.html").is_file()


def test_gradients_of_the_model_stay(tmp_path):
    """Lightning clears them, also before a validation."""
    model, data = seeded(), Data()
    model.network[0].weight.grad = torch.ones(16, 2)
    analyse(model, data, trainer(tmp_path), verbose=False)
    compare_models(model, model, data, trainer=trainer(tmp_path))
    assert torch.equal(model.network[0].weight.grad, torch.ones(16, 2))
    assert model.network[0].bias.grad is None


def test_nothing_is_trained_and_no_other_callback_takes_part(tmp_path):
    model, data, used = Untrained(), Data(), trainer(tmp_path, Forbidden())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = analyse(model, data, used, verbose=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [type(each) for each in used.callbacks] == [Forbidden]
    expected = estimate_influence(model, data.train_dataloader(), data.val_dataloader())
    np.testing.assert_array_equal(found.influence.scores, expected.scores)


def test_trainer_can_fit_before_and_afterwards(tmp_path):
    model, data, used = seeded(), Data(), trainer(tmp_path, max_epochs=1)
    used.fit(model, datamodule=data)
    assert analyse(model, data, used, verbose=False).influence.scores.any()
    used.fit_loop.max_epochs = 3
    used.fit(model, datamodule=data)
    assert (used.current_epoch, used.global_step) == (3, 24)


def test_weights_come_from_the_checkpoint_and_the_model_keeps_its_own(tmp_path):
    model, data, fitted = seeded(), Data(), trainer(tmp_path)
    fitted.fit(model, datamodule=data)
    fitted.save_checkpoint(tmp_path / "trained.ckpt")
    other = Plain()
    before = other.network[0].weight.clone()
    found = analyse(other, data, trainer(tmp_path), ckpt_path=tmp_path / "trained.ckpt", verbose=False)
    expected = estimate_influence(model, data.train_dataloader(), data.val_dataloader())
    np.testing.assert_array_equal(found.influence.scores, expected.scores)
    assert found.influence.metadata["checkpoint"] == "trained.ckpt"
    assert torch.equal(other.network[0].weight, before)


def test_checkpoint_that_cannot_be_loaded_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="which does not exist"):
        analyse(Plain(), Data(), trainer(tmp_path), ckpt_path="nothing.ckpt")
    (tmp_path / "other.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"other\.ckpt cannot be loaded"):
        analyse(Plain(), Data(), trainer(tmp_path), ckpt_path=tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="pass one of them"):
        analyse(Plain(), Data(), trainer(tmp_path), ckpt_path=tmp_path / "other.ckpt", checkpoint=["a.ckpt"])


def test_options_of_the_trainers_own_callback_hold_unless_others_are_given(tmp_path):
    own = ParetoCallback(budget=0.1, folds=4, analyse=False, verbose=False)
    used = trainer(tmp_path, own)
    assert analyse(Plain(), Data(), used).verdict.budget == 0.1
    changed = analyse(Plain(), Data(), used, budget=0.3)
    assert (changed.verdict.budget, changed.influence.fold_scores.shape[0]) == (0.3, 4)
    assert own.question.budget == 0.1


def test_loaders_serve_as_well_as_a_datamodule(tmp_path):
    data = Data()
    loaders = {"train_dataloaders": data.train_dataloader(), "val_dataloaders": data.val_dataloader()}
    model = Plain()
    found = analyse(model, trainer=trainer(tmp_path / "loaders"), verbose=False, **loaders)
    expected = analyse(model, data, trainer(tmp_path / "data"), verbose=False)
    np.testing.assert_array_equal(found.influence.scores, expected.influence.scores)


def test_analysis_without_a_trainer_does_not_speak_of_logging(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        analyse(Plain(), Data(), verbose=False)
    assert not [each for each in warned if "logging interval" in str(each.message)]


@pytest.mark.parametrize(
    ("positional", "named", "message"),
    [
        ((Data().train_dataloader(), Data().val_dataloader()), {}, r"datamodule must be a .*, found DataLoader\. Pass"),
        ((Data(), Data().val_dataloader()), {}, "trainer must be a Trainer, found DataLoader"),
        (
            (Data(),),
            {"train_dataloaders": Data().train_dataloader()},
            "datamodule and train_dataloaders are both",
        ),
        (
            (Data(),),
            {"budgett": 0.3},
            "analyse has no argument 'budgett'.*options of ParetoCallback: task, class",
        ),
    ],
)
def test_arguments_in_the_wrong_place_are_refused(positional, named, message):
    with pytest.raises(TypeError, match=message):
        analyse(Plain(), *positional, **named)


def test_data_are_checked_first(tmp_path):
    with pytest.raises(ValueError, match="'nowhere'"):
        analyse(Plain(), Data(), trainer(tmp_path), targets=["nowhere"])


def test_loader_that_the_trainer_does_not_create_is_missed(tmp_path):
    with pytest.raises(ValueError, match=r"no training set.*limit_train_batches must not be 0"):
        analyse(Plain(), Data(), trainer(tmp_path, limit_train_batches=0), verbose=False)


@pytest.mark.distributed
@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed support")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_two_processes_find_the_same(tmp_path):
    one = analyse(seeded(), Data(), trainer(tmp_path), verbose=False)
    two = analyse(seeded(), Data(), trainer(tmp_path, strategy="ddp_fork", devices=2), verbose=False)
    assert_near(two.influence.scores, one.influence.scores, TWO_PROCESSES)
    assert two.folder == tmp_path / "pareto_1"


PROJECT = """
import lightning.pytorch as pl
from tests.integration._models import Data, Plain

class Model(Plain):
    pass

class Project(Data):
    pass
"""

CONFIG = """
trainer:
  accelerator: cpu
  max_epochs: 1
  devices: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    class_path: ParetoCallback
    init_args: {folds: 4, budget: 0.1}
model: {lr: 0.1}
data: {class_path: __main__.Project}
ckpt_path: null
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse", reason="the command line is an extra: pip install 'lightning_pareto[cli]'")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning calls it in an older way
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "its_project.py").write_text(PROJECT)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_command_reads_the_configuration_of_a_fit(config, tmp_path, capsys):
    trained = trainer(tmp_path)
    trained.fit(seeded(), datamodule=Data())
    trained.save_checkpoint("trained.ckpt")
    command = ["analyse", str(config), "--model", "its_project.Model", "--ckpt-path", "trained.ckpt"]
    code = main([*command, "--budget", "0.3", "--dirpath", "results"])
    found = InfluenceMatrix.load("results/influence.safetensors")
    assert (found.fold_scores.shape[0], found.asked("budget", 0.0)) == (4, 0.3)
    assert found.metadata["checkpoint"] == "trained.ckpt"
    assert "Pareto improvement possible" in capsys.readouterr().out
    assert main(["check", "results", "--budget", "0.3"]) == code


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((), "a class of the script that was run"),
        (("--data", "its_project.Project"), "does not name the class of its model. Add --model"),
        (("--model", "its_project.Wrong"), "expected the import path of a class, found 'its_project.Wrong'"),
        (("--model", "its_project.Model", "--ckpt-path", "no.ckpt"), "which does not exist"),
    ],
)
def test_command_says_what_the_configuration_lacks(config, options, error, capsys):
    assert main(["analyse", str(config), *options]) == 2
    assert error in capsys.readouterr().err


def test_results_of_the_fit_stay_with_the_callback(tmp_path):
    own = ParetoCallback(verbose=False)
    used, data = trainer(tmp_path, own), Data()
    used.fit(seeded(), datamodule=data)
    before = own.influence
    other = analyse(seeded(lr=0.1), data, used)
    assert own.influence is before
    assert not np.array_equal(other.influence.scores, before.scores)


def test_step_that_updates_a_teacher_leaves_it_as_it_was(tmp_path):
    class Taught(Plain):
        def __init__(self):
            super().__init__()
            self.teacher = torch.nn.Linear(2, 4).requires_grad_(False)

        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.teacher.weight.add_(1)
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    model = Taught()
    before = model.teacher.weight.clone()
    analyse(model, Data(), trainer(tmp_path), verbose=False)
    assert torch.equal(model.teacher.weight, before)
