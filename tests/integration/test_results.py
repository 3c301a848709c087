"""What is left of a fit: results in memory and on disk, their loggers, and nothing of the fit before."""

import copy

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_pareto import ClassificationTask, InfluenceMatrix, ParetoCallback
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


@pytest.mark.filterwarnings("ignore:finished stages cannot be kept", "ignore:the verdict could not be written")
def test_a_folder_that_cannot_be_written_leaves_the_results_in_memory(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    callback = ParetoCallback(dirpath=tmp_path / "file" / "pareto", verbose=False)
    with pytest.warns(UserWarning, match="the influence could not be written(.|\n)*in memory only"):
        trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    assert callback.verdict.p_value >= 0


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
