"""Class-wise accuracy in the loggers during a fit."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import TensorDataset

from lightning_pareto import ParetoCallback
from tests.integration._models import Data, Failing, Plain, datasets, trainer


def test_class_without_samples_logs_no_accuracy_and_warns(tmp_path):
    train, val = datasets()
    x, y = val.tensors
    callback = ParetoCallback(verbose=False)
    fitted = trainer(tmp_path, callback)
    with pytest.warns(UserWarning, match="no validation samples of north"):
        fitted.fit(Plain(), datamodule=Data(train, TensorDataset(x[y != 1], y[y != 1])))
    assert "val_accuracy/north" not in fitted.callback_metrics
    assert fitted.callback_metrics["val_support/north"] == 0
    assert callback.verdict.present.tolist() == [True, False, True, True]


def test_number_of_classes_may_change_between_fits(tmp_path):
    """The first fit is stopped in the middle of an epoch, which must leave no counts."""
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


class Warnings(Callback):
    """Notes in which epochs the callback before it has warned."""

    def __init__(self, recorded):
        self.recorded = recorded
        self.counts = []

    def on_validation_epoch_end(self, trainer, pl_module):
        text = "no validation samples of north: no accuracy is logged for these classes"
        found = [w for w in self.recorded if text in str(w.message) and "Add validation samples" in str(w.message)]
        self.counts.append(len(found))


@pytest.mark.parametrize(("limit", "counts"), [(1.0, [0, 1, 1, 1]), (1, [0, 0, 0, 0])])
def test_absent_class_is_reported_once_after_the_first_whole_epoch(tmp_path, limit, counts):
    train, val = datasets()
    x, y = val.tensors
    data = Data(train, TensorDataset(x[y != 1], y[y != 1]))
    options = {"limit_val_batches": limit, "max_epochs": 3, "num_sanity_val_steps": 1}
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        noted = Warnings(recorded)
        trainer(tmp_path, ParetoCallback(verbose=False), noted, **options).fit(Plain(), datamodule=data)
    assert noted.counts == counts, "the sanity check comes first"
