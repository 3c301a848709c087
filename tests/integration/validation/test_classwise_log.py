"""Class-wise accuracy during a fit."""

import copy
import pickle
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_pareto import ClassificationTask, ParetoCallback
from lightning_pareto.influence.task import default_logits
from tests.integration._models import CLASSES, Data, DictBatches, Dicts, Inner, Plain, datasets, trainer


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


class Popping(DictBatches):
    """Takes what it needs out of the batch."""

    def validation_step(self, batch, batch_idx):
        labels = batch.pop("labels")
        loss = torch.nn.functional.cross_entropy(self.network(batch.pop("features")), labels)
        self.log("val_loss", loss, batch_size=len(labels))


def test_validation_step_may_take_the_batch_apart(tmp_path):
    """The labels are read before, and the model runs on a copy of the dict."""
    train, val = datasets()
    fitted = trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=1)
    fitted.fit(Popping(), datamodule=Data(Dicts(train), Dicts(val)))
    assert sum(float(fitted.callback_metrics[f"val_support/{k}"]) for k in range(CLASSES)) == 120


class Failing(Plain):
    """Fails in the second batch of a validation epoch."""

    def validation_step(self, batch, batch_idx):
        if batch_idx == 1:
            raise RuntimeError("no second batch")
        super().validation_step(batch, batch_idx)


def test_after_an_error_in_a_validation_step_nothing_is_left_behind(tmp_path):
    callback, model = ParetoCallback(analyse=False), Failing()
    with pytest.raises(RuntimeError, match="no second batch"):
        trainer(tmp_path, callback, num_sanity_val_steps=0).fit(model, datamodule=Data())
    assert not model._forward_hooks
    pickle.loads(pickle.dumps(callback))
    copy.deepcopy(callback)
    fitted = trainer(tmp_path, callback, max_epochs=1)
    fitted.fit(Plain(), datamodule=Data())
    assert sum(float(fitted.callback_metrics[f"val_support/{name}"]) for name in Data().train.classes) == 120


def test_the_number_of_classes_may_change_between_fits(tmp_path):
    """The first fit is stopped in the middle of an epoch, the hard way for counts that are kept."""
    callback = ParetoCallback(analyse=False)
    with pytest.raises(RuntimeError, match="no second batch"):
        trainer(tmp_path, callback, num_sanity_val_steps=0).fit(Failing(), datamodule=Data())

    class Two(Plain):
        def __init__(self):
            super().__init__()
            self.network = torch.nn.Linear(2, 2)

    train, val = (TensorDataset(part.tensors[0], part.tensors[1] % 2) for part in datasets())
    fitted = trainer(tmp_path, callback, max_epochs=1)
    fitted.fit(Two(), datamodule=Data(train, val))
    assert {name for name in fitted.callback_metrics if "support" in name} == {"val_support/0", "val_support/1"}
    assert sum(float(fitted.callback_metrics[f"val_support/{k}"]) for k in range(2)) == 120


class CopiesItself(Plain):
    """Copies callback and module in the middle of a batch, while the callback listens."""

    copied = 0

    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda *_: None)  # the user's, which cannot be pickled and need not be

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        for callback in self.trainer.callbacks:
            if isinstance(callback, ParetoCallback):
                pickle.loads(pickle.dumps(callback))
                copy.deepcopy(callback)
                (listening,) = (hook for hook in self._forward_hooks.values() if hasattr(hook, "__self__"))
                pickle.dumps(listening)
                type(self).copied += 1


def test_the_callback_can_be_copied_at_any_time(tmp_path):
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback).fit(CopiesItself(), datamodule=Data())
    assert CopiesItself.copied > 0
    for twin in (pickle.loads(pickle.dumps(callback)), copy.deepcopy(callback)):
        assert str(twin.verdict) == str(callback.verdict)


def note_dtype(seen):
    def logits(module, batch):
        value = default_logits(module, batch)
        seen.append(value.dtype)
        return value

    return logits


def test_the_forward_pass_of_its_own_is_in_the_trainers_precision(tmp_path):
    seen = []
    callback = ParetoCallback(task=ClassificationTask(logits=note_dtype(seen)), analyse=False)
    trainer(tmp_path, callback, precision="bf16-mixed", max_epochs=1).fit(Inner(), datamodule=Data())
    assert set(seen) == {torch.bfloat16}


class Warnings(Callback):
    """Notes in which epochs the callback before it has warned."""

    def __init__(self, recorded):
        self.recorded = recorded
        self.counts = []

    def on_validation_epoch_end(self, trainer, pl_module):
        found = [str(w.message) for w in self.recorded if "no validation samples of north" in str(w.message)]
        self.counts.append(len(found))


@pytest.mark.parametrize(("limit", "counts"), [(1.0, [0, 1, 1, 1]), (1, [0, 0, 0, 0])])
def test_an_absent_class_is_told_once_after_the_first_whole_epoch(tmp_path, limit, counts):
    train, val = datasets()
    x, y = val.tensors
    data = Data(train, TensorDataset(x[y != 1], y[y != 1]))
    options = {"limit_val_batches": limit, "max_epochs": 3, "num_sanity_val_steps": 1}
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        noted = Warnings(recorded)
        trainer(tmp_path, ParetoCallback(verbose=False), noted, **options).fit(Plain(), datamodule=data)
    assert noted.counts == counts, "the sanity check comes first"


def test_names_of_classes_are_found_in_subsets_and_in_validation(tmp_path):
    train, val = datasets()
    unnamed = TensorDataset(*train.tensors)
    nested = Subset(Subset(val, range(120)), range(100))
    for data in (
        Data(Subset(Subset(train, range(200)), range(150)), TensorDataset(*val.tensors)),
        Data(unnamed, nested),
    ):
        callback = ParetoCallback(verbose=False)
        fitted = trainer(tmp_path, callback, max_epochs=1)
        fitted.fit(Plain(), datamodule=data)
        assert callback.influence.category_names == ("east", "north", "west", "south")
        assert "val_accuracy/north" in fitted.callback_metrics


def test_names_that_do_not_tell_classes_apart_are_not_used(tmp_path):
    train, val = datasets()
    train.classes = ("a", "a", "b", "c")
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), DataLoader(train), DataLoader(TensorDataset(*val.tensors)))
    assert callback.influence.category_names == tuple("0123")
