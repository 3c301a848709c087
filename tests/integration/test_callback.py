"""ParetoCallback in real fits."""

import csv

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_pareto import (
    BatchError,
    ClassificationTask,
    InfluenceMatrix,
    ParetoCallback,
    ParetoVerdict,
    estimate_influence,
)
from tests.integration._models import CLASSES, Data, DictBatches, Dicts, Inner, Plain, datasets, trainer


def test_after_fit_there_is_influence_and_a_verdict_in_memory_and_on_disk(tmp_path, capsys):
    callback = ParetoCallback()
    trainer(tmp_path, callback, max_epochs=5).fit(Plain(), datamodule=Data())
    assert callback.influence.scores.shape == (240, CLASSES)
    assert callback.influence.names == ("east", "north", "west", "south")
    np.testing.assert_array_equal(callback.influence.labels, datasets()[0].tensors[1])
    output = capsys.readouterr().out
    assert str(callback.verdict) in output
    assert f"Influence and verdict: {tmp_path / 'pareto'}" in output
    stored = InfluenceMatrix.load(tmp_path / "pareto" / "influence.safetensors")
    np.testing.assert_array_equal(stored.scores, callback.influence.scores)
    assert str(ParetoVerdict.load(tmp_path / "pareto" / "verdict.safetensors")) == str(callback.verdict)


def test_the_fit_is_the_same_with_and_without_it(tmp_path):
    states = []
    for callbacks in ([], [ParetoCallback(verbose=False)]):
        torch.manual_seed(0)
        model = Plain()
        trainer(tmp_path, *callbacks).fit(model, datamodule=Data())
        states.append(model.state_dict())
        assert model.training
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_it_is_the_pure_function_on_the_trained_model(tmp_path):
    callback, model, data = ParetoCallback(verbose=False), Plain(), Data()
    trainer(tmp_path, callback).fit(model, datamodule=data)
    expected = estimate_influence(model, data.train_dataloader(), data.val_dataloader())
    np.testing.assert_array_equal(callback.influence.scores, expected.scores)


def test_logs_classwise_accuracy_support_and_verdict_to_every_logger(tmp_path):
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


@pytest.mark.parametrize("model", [Plain, Inner])
def test_overhears_the_logits_or_runs_the_model_once_more(tmp_path, model):
    torch.manual_seed(0)
    fitted = trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=1)
    fitted.fit(model(), datamodule=Data())
    torch.manual_seed(0)
    again = trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=1)
    again.fit(Plain(), datamodule=Data())
    assert fitted.callback_metrics["val_accuracy_macro"] == again.callback_metrics["val_accuracy_macro"]


def test_overhearing_costs_no_forward_pass(tmp_path):
    calls = []
    model = Plain()
    model.network.register_forward_hook(lambda module, *_: None if module.training else calls.append(1))
    trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=1, num_sanity_val_steps=0).fit(model, datamodule=Data())
    assert len(calls) == 3  # 120 samples in batches of 50


def test_an_absent_class_logs_no_accuracy_and_warns(tmp_path):
    train, val = datasets()
    x, y = val.tensors
    callback = ParetoCallback(verbose=False)
    fitted = trainer(tmp_path, callback)
    with pytest.warns(UserWarning, match="no validation samples of north"):
        fitted.fit(Plain(), datamodule=Data(train, TensorDataset(x[y != 1], y[y != 1])))
    assert "val_accuracy/north" not in fitted.callback_metrics
    assert fitted.callback_metrics["val_support/north"] == 0
    assert callback.verdict.present.tolist() == [True, False, True, True]


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


def test_any_other_batch_takes_a_task_and_the_error_shows_how(tmp_path):
    train, val = (TensorDataset(*part.tensors, torch.arange(len(part))) for part in datasets())
    with pytest.raises(BatchError, match=r"list of 3(.|\n)*task = ClassificationTask\("):
        trainer(tmp_path, ParetoCallback()).fit(Triple(), datamodule=Data(train, val))
    task = ClassificationTask(logits=lambda m, batch: m(batch[0]), targets=lambda batch: batch[1])
    callback = ParetoCallback(task=task, verbose=False)
    trainer(tmp_path, callback).fit(Triple(), datamodule=Data(train, val))
    assert callback.influence.scores.shape == (240, CLASSES)


def test_influence_is_taken_at_the_best_checkpoint_and_the_last_weights_stay(tmp_path):
    data = Data()
    best = ModelCheckpoint(tmp_path / "one", monitor="age", mode="min")  # the "best" is the first epoch

    class Ageing(Plain):
        def on_validation_epoch_end(self):
            self.log("age", float(self.current_epoch))

    callback, model = ParetoCallback(verbose=False), Ageing()
    trainer(tmp_path, callback, best, max_epochs=3, enable_checkpointing=True).fit(model, datamodule=data)
    at_best = Plain()
    at_best.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    assert not torch.equal(at_best.network[0].weight, model.network[0].weight)
    expected = estimate_influence(at_best, data.train_dataloader(), data.val_dataloader())
    np.testing.assert_array_equal(callback.influence.scores, expected.scores)
    assert callback.influence.metadata["checkpoint"].startswith("epoch=0")
    last = ParetoCallback(checkpoint="last", verbose=False)
    another = ModelCheckpoint(tmp_path / "another", monitor="age", mode="min")
    trainer(tmp_path, last, another, max_epochs=1, enable_checkpointing=True).fit(model, datamodule=data)
    assert last.influence.metadata["checkpoint"] == "last weights"


def test_a_failure_after_the_fit_keeps_the_model_and_comes_back_on_asking(tmp_path):
    def loss(logits, targets):
        return torch.full_like(logits[:, 0], torch.nan) * logits.sum()

    callback = ParetoCallback(task=ClassificationTask(loss=loss))
    model, fitted = Plain(), trainer(tmp_path, callback)
    with pytest.warns(
        UserWarning, match="failed after the fit, the trained model is untouched: a sample's loss is not"
    ):
        fitted.fit(model, datamodule=Data())
    assert fitted.state.finished
    assert model.training
    with pytest.raises(RuntimeError, match="left no result") as caught:
        _ = callback.influence
    assert "not finite" in str(caught.value.__cause__)


def test_a_folder_that_cannot_be_written_leaves_the_results_in_memory(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    callback = ParetoCallback(dirpath=tmp_path / "file" / "pareto", verbose=False)
    with pytest.warns(UserWarning, match="in memory only"):
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


class Stream(IterableDataset):
    def __iter__(self):
        x, y = datasets()[0].tensors
        return iter(zip(x, y, strict=True))


class Augmenting(Data):
    """Scales its batches on the device: for training at random, otherwise by a constant."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return (x * torch.rand(1) if self.trainer.training else x * 2), y


def test_batch_hooks_are_the_users_and_do_not_augment(tmp_path):
    callback, model, data = ParetoCallback(verbose=False), Plain(), Augmenting()
    trainer(tmp_path, callback).fit(model, datamodule=data)
    task = ClassificationTask(logits=lambda m, batch: m(batch[0] * 2), targets=lambda batch: batch[1])
    expected = estimate_influence(model, data.train_dataloader(), data.val_dataloader(), task=task)
    np.testing.assert_allclose(callback.influence.scores, expected.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("loaders", "options", "error", "message"),
    [
        (lambda t, v: (DataLoader(t),), {}, ValueError, "needs a validation set"),
        (lambda t, v: (DataLoader(Stream()), DataLoader(v)), {}, TypeError, "train dataloader reads Stream"),
        (lambda t, v: (DataLoader(t), DataLoader(Stream())), {}, TypeError, "validation dataloader reads Stream"),
        (lambda t, v: ([DataLoader(t), DataLoader(t)], DataLoader(v)), {}, TypeError, "found list"),
        (lambda t, v: (DataLoader(t), DataLoader(v)), {"class_names": "nesw"}, ValueError, "a list of different"),
        (lambda t, v: (DataLoader(t), DataLoader(v)), {"class_names": list("aacd")}, ValueError, "a list of different"),
        (
            lambda t, v: (DataLoader(t), DataLoader(v)),
            {"class_names": ["a", "b"]},
            ValueError,
            "2 class names for a model",
        ),
        (lambda t, v: (DataLoader(t), DataLoader(v)), {"val_dataloader_idx": 1}, ValueError, "there are 1 loaders"),
    ],
)
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_what_is_wrong_with_the_data_stops_the_fit_before_it_starts(tmp_path, loaders, options, error, message):
    model = Plain()
    before = model.network[0].weight.clone()
    train, val, *_ = (*loaders(*datasets()), None)
    fitted = trainer(tmp_path, ParetoCallback(**options), num_sanity_val_steps=0)
    with pytest.raises(error, match=message):
        fitted.fit(model, train, [val] if "val_dataloader_idx" in options else val)
    assert torch.equal(model.network[0].weight, before)


def test_a_model_without_forward_or_coverable_layers_is_refused_before_the_fit(tmp_path):
    class Formless(Plain):
        forward = pl.LightningModule.forward

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            return None

    with pytest.raises(BatchError, match=r'missing the required "forward"(.|\n)*ClassificationTask\('):
        trainer(tmp_path, ParetoCallback(), num_sanity_val_steps=0).fit(Formless(), datamodule=Data())

    class Uncovered(Plain):
        def __init__(self):
            super().__init__()
            self.network = nn.Bilinear(2, 2, CLASSES)

        def forward(self, x):
            return self.network(x, x)

    with pytest.raises(ValueError, match="no trainable nn"):
        trainer(tmp_path, ParetoCallback()).fit(Uncovered(), datamodule=Data())


def test_labels_out_of_range_in_validation_are_named(tmp_path):
    train, val = datasets()
    val = TensorDataset(val.tensors[0], val.tensors[1].clone())
    val.tensors[1][0] = 7
    with pytest.raises(BatchError, match=r"labels must lie in \[0, 4\)(.|\n)*found 7"):
        trainer(tmp_path, ParetoCallback(), num_sanity_val_steps=0).fit(
            Headless(), DataLoader(train), DataLoader(val, batch_size=8)
        )


class Headless(Plain):
    """Validates nothing itself."""

    def validation_step(self, batch, batch_idx):
        return None


def test_one_of_several_validation_loaders(tmp_path):
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


def test_half_precision_by_autocast(tmp_path):
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback, precision="bf16-mixed").fit(Plain(), datamodule=Data())
    assert callback.influence.scores.dtype == np.float32
    assert np.isfinite(callback.influence.scores).all()


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint": "middle"},
        {"damping": -1.0},
        {"folds": 0},
        {"measure": "f1"},
        {"budget": 3},
        {"level": 5},
        {"curvature": "kfac2"},
    ],
)
def test_options_are_checked_at_once(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ParetoCallback(**options)
