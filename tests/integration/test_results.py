"""What is left of a fit: results in memory and on disk, their loggers, and nothing of the fit before."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_pareto import ClassificationTask, InfluenceMatrix, ParetoCallback
from lightning_pareto.command_line.inputs import find
from lightning_pareto.integration.analysis import run as analysis
from lightning_pareto.integration.output.results_folder import why_not_writable
from lightning_pareto.report.html.run import home_of
from lightning_pareto.storage.run_folders import run_folders_in
from tests.integration._models import Data, Over, Plain, trainer


def test_a_failure_after_the_fit_keeps_the_model_and_comes_back_on_asking(tmp_path):
    over = Over()

    def loss(logits, targets):
        return nn.functional.cross_entropy(logits, targets, reduction="none") * (torch.nan if over else 1)

    callback = ParetoCallback(task=ClassificationTask(loss=loss))
    model, fitted = Plain(), trainer(tmp_path, over, callback)
    with pytest.warns(
        UserWarning, match="failed after the fit, the trained model is untouched: training sample .*: a sample's loss"
    ):
        fitted.fit(model, datamodule=Data())
    assert fitted.state.finished
    assert model.training
    with pytest.raises(RuntimeError, match="left no result") as caught:
        _ = callback.influence
    assert "not finite" in str(caught.value.__cause__)


class Said(Callback):
    """Notes how many warnings there were when the training began."""

    def __init__(self, warned):
        self.warned = warned

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = [str(each.message) for each in self.warned]


@pytest.mark.filterwarnings("ignore:results will be in memory only")
def test_a_folder_that_cannot_be_written_is_said_before_the_fit_and_leaves_the_results_in_memory(tmp_path):
    (tmp_path / "pareto").write_text("not a folder")
    callback = ParetoCallback(verbose=False)
    with pytest.warns(UserWarning, match="the influence could not be written(.|\n)*in memory only") as warned:
        trainer(tmp_path, callback, said := Said(warned)).fit(Plain(), datamodule=Data())
    assert any("results will be in memory only" in text and "is not a folder" in text for text in said.before)
    assert callback.verdict.p_value >= 0


def test_results_of_an_earlier_fit_in_the_same_folder_stay(tmp_path, caplog):
    callback, other = ParetoCallback(verbose=False), ParetoCallback(verbose=False, damping=1.0)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    first = callback.influence.scores
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        trainer(tmp_path, other).fit(Plain(), datamodule=Data())
    assert f"{tmp_path / 'pareto'} holds the results of an earlier fit" in caplog.text
    for folder, expected in (("pareto", first), ("pareto_1", other.influence.scores)):
        kept = InfluenceMatrix.load(tmp_path / folder / "influence.safetensors")
        np.testing.assert_array_equal(kept.scores, expected)
    assert find(tmp_path, "influence") == tmp_path / "pareto_1" / "influence.safetensors"
    assert find(tmp_path, "verdict").parent == home_of(tmp_path) == tmp_path / "pareto_1"
    trainer(tmp_path, ParetoCallback(analyse=False)).fit(Plain(), datamodule=Data())
    assert not (tmp_path / "pareto_2").exists()
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    assert InfluenceMatrix.load(tmp_path / "pareto_2" / "influence.safetensors").scores.shape == first.shape


def scores_in(folder):
    return InfluenceMatrix.load(folder / "influence.safetensors").scores


class Meanwhile(Callback):
    """Another whole fit in the same folder while this one trains."""

    def __init__(self, folder, callback):
        self.folder, self.callback = folder, callback

    def on_train_epoch_start(self, fitted, pl_module):
        if fitted.current_epoch == 0:
            trainer(self.folder, self.callback).fit(Plain(), datamodule=Data())


def test_fits_that_overlap_in_time_replace_nothing_of_each_other(tmp_path):
    callback, other = ParetoCallback(verbose=False), ParetoCallback(verbose=False, damping=1.0)
    trainer(tmp_path, callback, Meanwhile(tmp_path, other)).fit(Plain(), datamodule=Data())
    np.testing.assert_array_equal(scores_in(tmp_path / "pareto"), other.influence.scores)
    np.testing.assert_array_equal(scores_in(tmp_path / "pareto_1"), callback.influence.scores)


def test_two_callbacks_of_one_fit_replace_nothing_of_each_other(tmp_path):
    callbacks = [ParetoCallback(verbose=False), ParetoCallback(verbose=False, measure="soft_error")]
    trainer(tmp_path, *callbacks).fit(Plain(), datamodule=Data())
    for folder, callback in zip(("pareto", "pareto_1"), callbacks, strict=True):
        np.testing.assert_array_equal(scores_in(tmp_path / folder), callback.influence.scores)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:ParetoCallback failed after the fit")
def test_nor_do_they_in_a_fit_that_goes_on_without_a_verdict(tmp_path, monkeypatch):
    fitted = trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=1)
    fitted.fit(Plain(), datamodule=Data())
    fitted.save_checkpoint(tmp_path / "last.ckpt")

    def fail(*_arguments, **_options):
        raise RuntimeError("no verdict today")

    monkeypatch.setattr(analysis, "check_pareto", fail)
    callbacks = [ParetoCallback(verbose=False), ParetoCallback(verbose=False, measure="soft_error")]
    trainer(tmp_path, *callbacks).fit(Plain(), datamodule=Data(), ckpt_path=tmp_path / "last.ckpt")
    for folder, callback in zip(("pareto", "pareto_1"), callbacks, strict=True):
        np.testing.assert_array_equal(scores_in(tmp_path / folder), callback.influence.scores)


def test_only_folders_that_a_fit_has_left_are_counted(tmp_path):
    """Not the user's own, nor such as no fit makes."""
    for name in ("pareto", "pareto_3", "pareto_03", "pareto_12", "pareto_2024"):
        (tmp_path / name).mkdir()
    for name in ("pareto", "pareto_3", "pareto_03"):
        (tmp_path / name / "verdict.safetensors").touch()
    assert run_folders_in(tmp_path) == [tmp_path / "pareto_3", tmp_path / "pareto"]
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    np.testing.assert_array_equal(scores_in(tmp_path / "pareto_4"), callback.influence.scores)


def test_a_folder_that_may_not_be_looked_into_does_not_end_the_fit(tmp_path, monkeypatch):
    """As another user's without the right to search it, which nothing is closed to root by."""
    closed = tmp_path / "pareto"
    closed.mkdir()

    def of_open_folders(ask):
        def asked(path, *arguments, **options):
            if closed in path.parents:
                raise PermissionError(13, "Permission denied", str(path))
            return ask(path, *arguments, **options)

        return asked

    for name in ("exists", "is_file"):
        monkeypatch.setattr(Path, name, of_open_folders(getattr(Path, name)))
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    assert callback.verdict.p_value >= 0
    np.testing.assert_array_equal(scores_in(tmp_path / "pareto_1"), callback.influence.scores)
    assert "Permission denied" in why_not_writable(closed / "mine")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_fit_that_goes_on_goes_on_with_the_folder_that_has_no_verdict_yet(tmp_path):
    callback, data = ParetoCallback(verbose=False), Data()
    fitted = trainer(tmp_path, callback)
    fitted.fit(Plain(), datamodule=data)
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "pareto" / "verdict.safetensors").unlink()
    trainer(tmp_path, callback).fit(Plain(), datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert (tmp_path / "pareto" / "verdict.safetensors").exists()
    assert not (tmp_path / "pareto_1").exists()
    trainer(tmp_path, callback).fit(Plain(), datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert (tmp_path / "pareto_1" / "verdict.safetensors").exists(), "what is whole is not replaced"


def test_before_any_fit_there_is_no_result():
    with pytest.raises(RuntimeError, match="fit a Trainer with this callback first"):
        _ = ParetoCallback().verdict


def test_a_dry_run_skips_the_analysis(tmp_path):
    callback = ParetoCallback()
    trainer(tmp_path, callback, fast_dev_run=True).fit(Plain(), datamodule=Data())
    with pytest.raises(RuntimeError):
        _ = callback.influence


class Unreachable(CSVLogger):
    """A service that is away when the verdict comes, and notes what is safe by then."""

    def log_metrics(self, metrics, step=None):
        if any(name.startswith("pareto/") for name in metrics):
            self.saved = InfluenceMatrix.load(f"{self.log_dir}/pareto/influence.safetensors")
            raise ConnectionError("service is away")
        super().log_metrics(metrics, step)


def test_a_logger_that_fails_loses_nothing(tmp_path, capsys):
    loggers = [Unreachable(tmp_path, name="away"), CSVLogger(tmp_path, name="there")]
    callback = ParetoCallback()
    fitted = trainer(tmp_path, callback, logger=loggers, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="Unreachable did not take the verdict's figures: service is away"):
        fitted.fit(Plain(), datamodule=Data())
    assert str(callback.verdict) in capsys.readouterr().out
    np.testing.assert_array_equal(loggers[0].saved.scores, callback.influence.scores)
    assert fitted.callback_metrics["pareto/headroom"] == pytest.approx(callback.verdict.headroom)
    assert "pareto/headroom" in (tmp_path / "there" / "version_0" / "metrics.csv").read_text()


@pytest.mark.parametrize(
    "options", [{"max_epochs": 0}, {"limit_train_batches": 0}, {"fast_dev_run": True}], ids=lambda o: next(iter(o))
)
@pytest.mark.filterwarnings("ignore:.*`max_epochs=0`")
def test_a_fit_that_trains_nothing_leaves_no_results_of_the_one_before(tmp_path, options):
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    assert callback.verdict.p_value >= 0
    trainer(tmp_path, callback, **options).fit(Plain(), datamodule=Data())
    with pytest.raises(RuntimeError, match="there is no result"):
        _ = callback.influence
    with pytest.raises(RuntimeError, match="there is no result"):
        _ = callback.verdict


def test_validating_keeps_the_results(tmp_path):
    callback, model, data = ParetoCallback(verbose=False), Plain(), Data()
    fitted = trainer(tmp_path, callback)
    fitted.fit(model, datamodule=data)
    fitted.validate(model, datamodule=data, verbose=False)
    assert callback.verdict.p_value >= 0


class Particular(Exception):
    """Cannot be unpickled, as many an exception of a library cannot."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def test_an_error_survives_copying_as_text(tmp_path):
    over = Over()

    def loss(logits, targets):
        if over:
            raise Particular("this", "that")
        return nn.functional.cross_entropy(logits, targets, reduction="none")

    callback = ParetoCallback(task=ClassificationTask(loss=loss), verbose=False)
    with pytest.warns(UserWarning, match="this and that"):
        trainer(tmp_path, over, callback).fit(Plain(), datamodule=Data())
    with pytest.raises(RuntimeError, match="left no result") as caught:
        _ = copy.deepcopy(callback).influence
    assert str(caught.value.__cause__) == "Particular: this and that"
