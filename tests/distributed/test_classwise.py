"""Class-wise metrics on two processes equal those on one."""

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics.classification import MulticlassAUROC, MulticlassSpecificity

from lightning_pareto import ParetoCallback
from tests.distributed._two import two, untrained
from tests.integration._models import Data, Inner, datasets, trainer

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed support"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
]


def metrics(fitted):
    return {name: float(value) for name, value in fitted.callback_metrics.items() if name.startswith("val_")}


def test_classwise_metrics_are_those_of_the_whole_validation_set(tmp_path):
    fitted = two(tmp_path, ParetoCallback(analyse=False), max_epochs=1)
    fitted.fit(untrained(), datamodule=Data())
    x, y = datasets()[1].tensors
    hits = untrained().eval()(x).argmax(1) == y
    for k, name in enumerate(Data().train.classes):
        assert fitted.callback_metrics[f"val_accuracy/{name}"] == pytest.approx(float(hits[y == k].float().mean()))


class Opposite(Inner):
    """Returns something like logits from its step, and never calls its own forward."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(lr=0.0)

    def validation_step(self, batch, batch_idx):
        return -self.network(batch[0])


class Both(Opposite):
    """Calls its forward and returns something else of the same shape."""

    calls = 0

    def forward(self, x):
        self.calls += not self.training
        return super().forward(x)

    def validation_step(self, batch, batch_idx):
        return {"logits": -self(batch[0])}

    def on_validation_epoch_end(self):
        self.log("calls", float(self.calls), reduce_fx="max", sync_dist=True)


@pytest.mark.parametrize("model", [Opposite, Both])
@pytest.mark.parametrize("samples", [61, 1])
@pytest.mark.filterwarnings("ignore:no validation samples of")
def test_padding_and_the_output_of_the_step_are_ignored(tmp_path, model, samples):
    """61 samples become 62 on two processes. With one sample, the second process has only padding."""
    train, val = datasets(val=samples)
    found = []
    for make in (trainer, two):
        fitted = make(tmp_path, ParetoCallback(analyse=False), max_epochs=1)
        fitted.fit(model(), datamodule=Data(train, val))
        found.append(metrics(fitted))
    assert found[0] == pytest.approx(found[1])
    assert sum(value for name, value in found[1].items() if "support" in name) == samples


@pytest.mark.parametrize("samples", [61, 1])
@pytest.mark.filterwarnings("ignore:no validation samples of")
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
@pytest.mark.filterwarnings("ignore:.*(positive|negative) samples in target")
@pytest.mark.parametrize("alone", [False, True])
def test_all_metrics_equal_those_of_one_process_also_in_validate(tmp_path, samples, alone):
    train, val = datasets(val=samples)
    found = []
    for make in (trainer, two):
        own = {
            "specificity": MulticlassSpecificity(4, average=None),
            "auroc": MulticlassAUROC(4, average=None),  # keeps every sample
            **{name: name for name in ("accuracy", "f1", "precision")},
        }
        if samples == 1:
            del own["auroc"]
        fitted, data = make(tmp_path, ParetoCallback(metrics=own, analyse=False)), Data(train, val)
        if alone:
            fitted.validate(untrained(), datamodule=data, verbose=False)
        else:
            fitted.fit(untrained(), datamodule=data)
        found.append(metrics(fitted))
        assert any("change" in name for name in found[-1]) is not alone
    assert {name: v for name, v in found[0].items() if name != "val_loss"} == pytest.approx(
        {name: v for name, v in found[1].items() if name != "val_loss"}, abs=1e-6
    )
    assert sum(value for name, value in found[1].items() if "support" in name) == samples


def position(batch):
    """Categories by the first number. Of the 61 samples, only the second process sees category 5."""
    return torch.bucketize(batch[0][:, 0].contiguous(), torch.tensor([-3.0, -2.0, 0.0, 2.0, 4.2]))


@pytest.mark.parametrize("samples", [61, 1])
@pytest.mark.parametrize("names", [None, ["a", "b", "c", "d", "e", "f", "nobody"]])
@pytest.mark.filterwarnings("ignore:no validation samples of")
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
@pytest.mark.parametrize("alone", [False, True])
def test_accuracy_by_category_equals_that_of_one_process_also_in_validate(tmp_path, samples, names, alone):
    """Each process has categories of its own. With one sample, the second process has only padding."""
    train, val = datasets(val=samples)
    found = []
    for make in (trainer, two):
        callback = ParetoCallback(analyse=False, categories=position, category_names=names)
        fitted, data = make(tmp_path, callback, max_epochs=1), Data(train, val)
        if alone:
            fitted.validate(untrained(), datamodule=data, verbose=False)
        else:
            fitted.fit(untrained(), datamodule=data)
        found.append({name: value for name, value in metrics(fitted).items() if "category" in name})
    assert found[0] == pytest.approx(found[1])
    category = position(val.tensors)
    right = untrained().eval()(val.tensors[0]).argmax(1) == val.tensors[1]
    for k, name in enumerate(names or map(str, range(int(category.max()) + 1))):
        assert found[1][f"val_category_support/{name}"] == int((category == k).sum())
        if (category == k).any():
            accuracy = float(right[category == k].float().mean())
            assert found[1][f"val_category_accuracy/{name}"] == pytest.approx(accuracy)
        else:
            assert f"val_category_accuracy/{name}" not in found[1]
    assert sum(value for name, value in found[1].items() if "support" in name) == samples


@pytest.mark.filterwarnings("ignore:no validation samples of")
@pytest.mark.filterwarnings("ignore:metrics.*is not available in this epoch")
def test_metric_that_keeps_samples_is_left_out_if_a_process_has_none(tmp_path):
    own = {"auroc": MulticlassAUROC(4, average=None), "f1": "f1"}
    fitted = two(tmp_path, ParetoCallback(metrics=own, analyse=False), max_epochs=1)
    fitted.fit(untrained(), datamodule=Data(*datasets(val=1)))
    assert "val_f1_macro" in fitted.callback_metrics
    assert not [name for name in fitted.callback_metrics if "auroc" in name]


def test_listening_costs_no_forward_pass(tmp_path):
    fitted = two(tmp_path, ParetoCallback(analyse=False), max_epochs=1, num_sanity_val_steps=0)
    fitted.fit(Both(), datamodule=Data())
    assert fitted.callback_metrics["calls"] == 2  # 60 samples a process in batches of 50


class AllToRankZero(DistributedSampler):
    """Gives all samples to rank zero."""

    def __iter__(self):
        return iter(range(len(self)))

    def __len__(self):
        return 0 if dist.get_rank() else len(self.dataset)


class Lopsided(Data):
    """Gives the second process nothing of the second loader. With nothing at all it would not validate."""

    def __init__(self):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def val_dataloader(self):
        return [super().val_dataloader(), DataLoader(self.val, batch_size=50, sampler=AllToRankZero(self.val))]


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")
@pytest.mark.filterwarnings("ignore:.*length of `DataLoader` within local rank is zero")
def test_process_without_a_batch_does_not_block_the_others(tmp_path):
    class Two(Opposite):
        def validation_step(self, batch, batch_idx, dataloader_idx):
            return None

    fitted = two(tmp_path, ParetoCallback(val_dataloader_idx=1, analyse=False, categories=position), max_epochs=1)
    fitted.fit(Two(), datamodule=Lopsided())
    for kind in ("val_support", "val_category_support"):
        assert sum(value for name, value in metrics(fitted).items() if name.startswith(kind)) == 120
