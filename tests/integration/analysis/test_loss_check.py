"""Is influence computed of the loss that is trained?"""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_pareto import ClassificationTask, ParetoCallback
from tests.integration._models import CLASSES, Data, Plain, trainer


class Noisy(Plain):
    """Has dropout, batch norm and a functional dropout, so its loss in training differs from that in evaluation."""

    def __init__(self, loss=None):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
        self.loss = F.cross_entropy if loss is None else loss

    def forward(self, x):
        return F.dropout(self.network(x), 0.3, self.training)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)


def warned(tmp_path, model, task=None, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback = ParetoCallback(verbose=False, folds=3, curvature="identity", task=task)
        trainer(tmp_path, callback, max_epochs=3, **options).fit(model, datamodule=Data())
    return [str(w.message) for w in caught if "returns another loss" in str(w.message)]


def weighted(logits, labels):
    return F.cross_entropy(logits, labels, weight=torch.tensor([1.0, 1.0, 1.0, 10.0]))


def smooth(logits, labels, reduction="mean"):
    return F.cross_entropy(logits, labels, label_smoothing=0.2, reduction=reduction)


def summed(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


def squared(logits, labels):
    return F.mse_loss(logits, F.one_hot(labels, CLASSES).float())


@pytest.mark.parametrize("loss", [weighted, smooth, squared])
def test_another_loss_is_told(tmp_path, loss):
    assert len(warned(tmp_path, Noisy(loss))) == 1


def test_another_loss_is_told_after_the_first_step(tmp_path):
    class Stops(Noisy):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            raise KeyError("the first step has ended")

    with pytest.warns(UserWarning, match=r"another loss.*ClassificationTask\(loss="), pytest.raises(KeyError):
        trainer(tmp_path, ParetoCallback(verbose=False)).fit(Stops(squared), datamodule=Data())


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}, {"precision": "bf16-mixed"}])
def test_same_loss_is_not(tmp_path, options):
    assert not warned(tmp_path, Noisy(), **options)
    assert not warned(tmp_path, Noisy(summed), **options), "a factor changes no order"


def test_described_loss_is_not(tmp_path):
    task = ClassificationTask(loss=lambda logits, labels: smooth(logits, labels, reduction="none"))
    assert not warned(tmp_path, Noisy(smooth), task)


def test_fit_is_the_same_to_the_bit_as_without_the_callback(tmp_path):
    states = []
    for callbacks in ([], [ParetoCallback(verbose=False)]):
        torch.manual_seed(0)
        model = Noisy()
        trainer(tmp_path, *callbacks, max_epochs=2, num_sanity_val_steps=0).fit(model, datamodule=Data())
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


class Caches(Noisy):
    """Keeps a buffer that grows with what forward has seen, as caches of positions do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("cache", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.cache = torch.zeros(len(self.cache) + 1)
        return super().forward(x)


def test_buffers_that_forward_replaces_do_no_harm(tmp_path):
    assert not warned(tmp_path, Caches())
