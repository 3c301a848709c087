"""ParetoCallback in real fits."""

import csv

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto import (
    BatchError,
    ClassificationTask,
    CourseCorrection,
    InfluenceMatrix,
    ParetoCallback,
    ParetoVerdict,
    SampleWeights,
    check_pareto,
    estimate_influence,
    reweight,
)
from lightning_pareto.command_line import main
from tests._asserts import assert_near
from tests.integration._models import CLASSES, Data, DictBatches, Dicts, Plain, datasets, trainer
from tests.integration._tolerances import BFLOAT16


def test_influence_and_verdict_are_in_memory_and_on_disk_after_a_fit(tmp_path, capsys):
    callback = ParetoCallback()
    trainer(tmp_path, callback, max_epochs=5).fit(Plain(), datamodule=Data())
    assert callback.influence.scores.shape == (240, CLASSES)
    assert callback.influence.category_names == ("east", "north", "west", "south")
    np.testing.assert_array_equal(callback.influence.labels, datasets()[0].tensors[1])
    output = capsys.readouterr().out
    assert str(callback.analysis) in output
    assert f"Influence and verdict: {tmp_path / 'pareto'}" in output
    stored = InfluenceMatrix.load(tmp_path / "pareto" / "influence.safetensors")
    np.testing.assert_array_equal(stored.scores, callback.influence.scores)
    assert str(ParetoVerdict.load(tmp_path / "pareto" / "verdict.safetensors")) == str(callback.verdict)


def test_outcome_is_that_of_the_analysed_model_and_the_step_leaves_it_as_it_was(tmp_path):
    model, callback = Plain(), ParetoCallback(verbose=False)
    trainer(tmp_path, callback, max_epochs=5).fit(model, datamodule=Data())
    x, y = datasets()[1].tensors
    with torch.no_grad():
        logits = model.eval()(x)
    outcome, step = callback.analysis.outcome, callback.analysis.step
    np.testing.assert_array_equal(outcome.predicted, logits.argmax(dim=1))
    np.testing.assert_array_equal(outcome.category, y)
    assert step.before is outcome
    assert step.after.probability.shape == outcome.probability.shape
    assert np.abs(step.after.probability - outcome.probability).max() > 0.01, "every sample is predicted again"


def test_failing_step_loses_nothing(tmp_path, monkeypatch):
    def fails(*_):
        raise ArithmeticError("no step today")

    monkeypatch.setattr("lightning_pareto.integration.analysis.run.judge_step", fails)
    callback = ParetoCallback(verbose=False)
    with pytest.warns(UserWarning, match="no small step was measured: no step today"):
        trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    assert callback.analysis.outcome is callback.analysis.step is None
    assert "Accuracy today" not in str(callback.analysis)
    assert str(callback.verdict.answer).upper() in str(callback.analysis)


def test_too_few_folds_for_a_proof_are_reported_before_the_first_step(tmp_path):
    class Stops(Plain):
        def training_step(self, batch, batch_idx):
            raise KeyError("a step was made")

    text = "folds=2: With fewer than 3 validation folds, held-out gains and their errors are unknown"
    with pytest.warns(UserWarning, match=text), pytest.raises(KeyError):
        trainer(tmp_path, ParetoCallback(folds=2, verbose=False)).fit(Stops(), datamodule=Data())


def test_influence_equals_that_of_estimate_influence(tmp_path):
    callback, model, data = ParetoCallback(verbose=False), Plain(), Data()
    trainer(tmp_path, callback).fit(model, datamodule=data)
    expected = estimate_influence(model, data.train_dataloader(), data.val_dataloader())
    np.testing.assert_array_equal(callback.influence.scores, expected.scores)


def test_accuracy_support_and_verdict_are_logged_to_every_logger(tmp_path):
    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="tensorboard")]
    model, fitted = Plain(), trainer(tmp_path, ParetoCallback(verbose=False), logger=loggers, log_every_n_steps=1)
    fitted.fit(model, datamodule=Data())
    x, y = datasets()[1].tensors
    hits = model.eval()(x).argmax(1) == y
    for k, name in enumerate(Data().train.classes):
        assert fitted.callback_metrics[f"val_accuracy/{name}"] == pytest.approx(float(hits[y == k].float().mean()))
        assert fitted.callback_metrics[f"val_support/{name}"] == int((y == k).sum())
    means = [float(hits[y == k].float().mean()) for k in range(CLASSES)]
    assert fitted.callback_metrics["val_accuracy_worst"] == pytest.approx(min(means))
    assert fitted.callback_metrics["val_accuracy_macro"] == pytest.approx(np.mean(means))
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(row["val_accuracy/north"] != "" for row in rows) == 2, "one value each epoch, none of the sanity check"
    assert any(row["pareto/headroom"] for row in rows)
    assert list((tmp_path / "tensorboard" / "version_0").glob("events*"))
    assert (tmp_path / "csv" / "version_0" / "pareto" / "verdict.safetensors").exists(), "under the log directory"


def test_dict_batches_need_no_configuration(tmp_path):
    train, val = datasets()
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback).fit(DictBatches(), datamodule=Data(Dicts(train), Dicts(val)))
    assert callback.influence.scores.shape == (240, CLASSES)


class Triple(Plain):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch[:2], batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch[:2], batch_idx)


def test_other_batches_need_a_task_and_the_error_shows_how(tmp_path):
    train, val = (TensorDataset(*part.tensors, torch.arange(len(part))) for part in datasets())
    with pytest.raises(BatchError, match=r"list of length 3(.|\n)*task = ClassificationTask\("):
        trainer(tmp_path, ParetoCallback()).fit(Triple(), datamodule=Data(train, val))
    task = ClassificationTask(logits=lambda m, batch: m(batch[0]), targets=lambda batch: batch[1])
    callback = ParetoCallback(task=task, verbose=False)
    trainer(tmp_path, callback).fit(Triple(), datamodule=Data(train, val))
    assert callback.influence.scores.shape == (240, CLASSES)


class Augmenting(Data):
    """Scales its batches on the device: at random in training, otherwise by a constant."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return (x * torch.rand(1) if self.trainer.training else x * 2), y


def test_batch_hooks_of_the_user_run_as_in_validation(tmp_path):
    callback, model, data = ParetoCallback(verbose=False), Plain(), Augmenting()
    trainer(tmp_path, callback).fit(model, datamodule=data)
    task = ClassificationTask(logits=lambda m, batch: m(batch[0] * 2), targets=lambda batch: batch[1])
    expected = estimate_influence(model, data.train_dataloader(), data.val_dataloader(), task=task)
    np.testing.assert_allclose(callback.influence.scores, expected.scores, rtol=1e-4, atol=1e-5)


def test_validation_labels_out_of_range_are_named(tmp_path):
    train, val = datasets()
    val = TensorDataset(val.tensors[0], val.tensors[1].clone())
    val.tensors[1][0] = 7
    with pytest.raises(BatchError, match=r"expected labels in \[0, 4\)(.|\n)*found 7"):
        trainer(tmp_path, ParetoCallback(), num_sanity_val_steps=0).fit(
            Headless(), DataLoader(train), DataLoader(val, batch_size=8)
        )


class Headless(Plain):
    """Validates nothing itself."""

    def validation_step(self, batch, batch_idx):
        return None


def test_one_of_several_validation_loaders_can_be_chosen(tmp_path):
    train, val = datasets()
    other = TensorDataset(val.tensors[0][:60], val.tensors[1][:60])

    class Two(Plain):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step(batch, batch_idx)

    callback = ParetoCallback(val_dataloader_idx=1, verbose=False)
    fitted = trainer(tmp_path, callback)
    fitted.fit(
        Two(), DataLoader(train, batch_size=32), [DataLoader(val, batch_size=32), DataLoader(other, batch_size=32)]
    )
    assert callback.influence.support.sum() == 60
    assert sum(float(fitted.callback_metrics[f"val_support/{name}"]) for name in train.classes) == 60


def test_autocast_is_near_float32(tmp_path):
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        callback = ParetoCallback(curvature="identity", verbose=False)
        trainer(tmp_path, callback, precision=precision, max_epochs=1).fit(Plain(lr=0.0), datamodule=Data())
        found[precision] = callback.influence.scores
    half, full = found["bf16-mixed"], found["32-true"]
    assert half.dtype == np.float32
    assert_near(half, full, BFLOAT16)
    assert np.abs(half - full).max() > 1e-4 * np.abs(full).max(), "autocast was on"


class Shifting(Data):
    """Scales the batches of the second validation loader only."""

    def val_dataloader(self):
        return [DataLoader(self.val, batch_size=50)] * 2

    def on_before_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x * (3 if dataloader_idx == 1 else 1), y

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x * (2 if dataloader_idx == 1 else 1), y


def test_batch_hooks_get_the_number_of_the_loader(tmp_path):
    class Two(Plain):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step(batch, batch_idx)

    callback, model, data = ParetoCallback(verbose=False, val_dataloader_idx=1), Two(), Shifting()
    trainer(tmp_path, callback).fit(model, datamodule=data)
    x, y = data.val.tensors
    scaled = DataLoader(TensorDataset(x * 6, y), batch_size=50)
    expected = estimate_influence(model, data.train_dataloader(), scaled)
    np.testing.assert_array_equal(callback.influence.scores, expected.scores)


def test_train_dataloader_can_be_replaced_even_without_a_whole_batch(tmp_path):
    x, y = datasets()[0].tensors
    plain = DataLoader(TensorDataset(x * 2, y), batch_size=500, drop_last=True)
    assert not plain, "a DataLoader without batches is false"
    callback, model = ParetoCallback(train_dataloader=plain, verbose=False), Plain()
    data = Data()
    trainer(tmp_path, callback).fit(model, datamodule=data)
    expected = estimate_influence(model, plain, data.val_dataloader())
    np.testing.assert_array_equal(callback.influence.scores, expected.scores)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
@pytest.mark.filterwarnings("ignore:no validation samples of 2, 3")  # two booleans, four logits
@pytest.mark.filterwarnings("ignore:no training samples of 2, 3")  # of bool labels
def test_labels_may_be_integers_of_any_dtype(tmp_path, dtype):
    class Lengthened(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0], batch[1].long()), batch_idx)

        def validation_step(self, batch, batch_idx):
            super().validation_step((batch[0], batch[1].long()), batch_idx)

    train, val = (TensorDataset(part.tensors[0], part.tensors[1].to(dtype)) for part in datasets())
    callback = ParetoCallback(verbose=False)
    fitted = trainer(tmp_path, callback)
    fitted.fit(Lengthened(), datamodule=Data(train, val))
    np.testing.assert_array_equal(callback.influence.labels, train.tensors[1].long())
    assert fitted.callback_metrics["val_support/1"] == int(val.tensors[1].eq(1).sum())


def test_verdict_can_be_asked_for_some_categories(tmp_path):
    callback = ParetoCallback(targets=["west"], floors=-0.05, verbose=False)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    expected = check_pareto(callback.influence, targets=[2], floors=-0.05)
    np.testing.assert_array_equal(callback.verdict.prices, expected.prices)
    assert callback.verdict.p_value == expected.p_value
    assert callback.verdict.p_value != check_pareto(callback.influence).p_value


def test_unknown_target_is_found_before_the_fit(tmp_path):
    model = Plain()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="unknown target 'up'"):
        trainer(tmp_path, ParetoCallback(targets="up")).fit(model, datamodule=Data())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_influence_remembers_budget_and_level(tmp_path):
    """Weights and checks that are made later use what the fit was asked, in memory and from disk."""
    callback = ParetoCallback(budget=0.35, level=0.1, verbose=False)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    stored = InfluenceMatrix.load(tmp_path / "pareto" / "influence.safetensors")
    for influence in (callback.influence, stored):
        assert (influence.metadata["budget"], influence.metadata["level"]) == (0.35, 0.1)
        assert reweight(influence).metadata["budget"] == 0.35
        verdict = check_pareto(influence)
        assert (verdict.budget, verdict.level) == (0.35, 0.1)
        assert str(verdict) == str(callback.verdict)
    assert main(["reweight", str(tmp_path)]) == 0
    weights = SampleWeights.load(tmp_path / "pareto" / "weights.safetensors")
    np.testing.assert_array_equal(weights.values, reweight(stored, budget=0.35).values)
    assert not np.array_equal(weights.values, reweight(stored, budget=0.2).values)


def test_failing_verdict_leaves_the_influence_on_disk(tmp_path):
    callback = ParetoCallback(targets="west", floors=5.0)
    with pytest.warns(UserWarning, match="The influence is kept"):
        trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    assert InfluenceMatrix.load(tmp_path / "pareto" / "influence.safetensors").scores.shape == (240, CLASSES)


def test_results_stay_if_fit_is_called_again_after_its_end(tmp_path):
    callback, correction, model = ParetoCallback(verbose=False), CourseCorrection(verbose=False), Plain()
    fitted = trainer(tmp_path, callback, correction, max_epochs=2)
    fitted.fit(model, datamodule=Data())
    influence, steps = callback.influence, fitted.global_step
    fitted.fit(model, datamodule=Data())
    assert fitted.global_step == steps, "nothing was trained"
    assert callback.influence is influence
    assert callback.verdict.category_names == influence.category_names
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data())
    assert callback.influence is not influence, "another trainer begins another fit"
