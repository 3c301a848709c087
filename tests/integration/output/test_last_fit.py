"""The results of the last fit, wherever it ran, and nothing of the fit before."""

import copy

import pytest
import torch
from torch import nn

from lightning_pareto import ClassificationTask, ParetoCallback
from tests.integration._models import Data, Over, Plain, trainer


def test_error_after_the_fit_keeps_the_model_and_is_raised_on_access(tmp_path):
    over = Over()

    def loss(logits, targets):
        return nn.functional.cross_entropy(logits, targets, reduction="none") * (torch.nan if over else 1)

    callback = ParetoCallback(task=ClassificationTask(loss=loss))
    model, fitted = Plain(), trainer(tmp_path, over, callback)
    with pytest.warns(
        UserWarning, match="failed after the fit. The trained model is kept: training sample .*: a sample's loss"
    ):
        fitted.fit(model, datamodule=Data())
    assert fitted.state.finished
    assert model.training
    with pytest.raises(RuntimeError, match="left no result") as caught:
        _ = callback.influence
    assert "not finite" in str(caught.value.__cause__)


def test_there_is_no_result_before_a_fit():
    with pytest.raises(RuntimeError, match="fit a Trainer with this callback first"):
        _ = ParetoCallback().verdict


def test_fast_dev_run_skips_the_analysis(tmp_path):
    callback = ParetoCallback()
    trainer(tmp_path, callback, fast_dev_run=True).fit(Plain(), datamodule=Data())
    with pytest.raises(RuntimeError):
        _ = callback.influence


@pytest.mark.parametrize(
    "options", [{"max_epochs": 0}, {"limit_train_batches": 0}, {"fast_dev_run": True}], ids=lambda o: next(iter(o))
)
@pytest.mark.filterwarnings("ignore:.*`max_epochs=0`")
def test_fit_that_trains_nothing_removes_the_results_of_the_one_before(tmp_path, options):
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
    """Cannot be unpickled, like the exceptions of many libraries."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def test_error_is_kept_as_text_in_a_copy(tmp_path):
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
