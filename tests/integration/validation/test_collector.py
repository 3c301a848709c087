"""One collector of validation logits for all that need them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from lightning_pareto import ClassificationTask
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.validation.callback import ValidationCallback
from lightning_pareto.integration.validation.collector import Consumer, ValidationCollector
from lightning_pareto.integration.validation.metrics import ClasswiseMetrics, chosen_metrics
from lightning_pareto.integration.validation.outcomes import OutcomeRecorder
from tests.integration._models import CLASSES, Data, Plain, datasets, trainer


class Keeps(Consumer):
    """Keeps what it gets."""

    def __init__(self):
        self.got = []

    def update(self, batch, logits, targets, count):
        self.got.append((batch, logits, targets, count))


class Watches(ValidationCallback):
    """Collects validation epochs for several consumers at once."""

    def __init__(self):
        super().__init__(DataSource(class_names=["a", "b", "c", "d"]))
        self.epochs = []

    def consumers(self, trainer):
        metrics = ClasswiseMetrics(chosen_metrics(["accuracy"]), trainer.strategy.root_device)
        self.current = (metrics, OutcomeRecorder(self.data), Keeps(), Keeps())
        return () if trainer.sanity_checking else self.current

    def on_collected(self, trainer, module):
        metrics, recorder, *others = self.current
        self.epochs.append((metrics.compute(trainer), recorder.outcome(trainer, module), others, predictions(module)))


@torch.no_grad()
def predictions(module):
    return module(datasets()[1].tensors[0].to(module.device)).cpu()


def test_consumers_of_one_collector_get_the_same_epoch(tmp_path):
    watches, calls = Watches(), []
    model = Plain()
    model.network.register_forward_hook(lambda module, *_: None if module.training else calls.append(1))
    trainer(tmp_path, watches, max_epochs=2).fit(model, datamodule=Data())
    assert len(watches.epochs) == 2, "the sanity check has no consumers"
    assert len(calls) == 2 + 2 * (3 + 1), "batches of the sanity check, then three a validation and one of this test"
    labels = datasets()[1].tensors[1]
    for metrics, outcome, (one, other), logits in watches.epochs:
        torch.testing.assert_close(torch.cat([each[1] for each in one.got]).cpu(), logits, rtol=0, atol=1e-6)
        assert all(
            mine is yours for a, b in zip(one.got, other.got, strict=True) for mine, yours in zip(a, b, strict=True)
        )
        assert outcome.category.tolist() == labels.tolist()
        assert outcome.correct.tolist() == (logits.argmax(1) == labels).tolist()
        assert metrics.support.tolist() == outcome.support.tolist()
        assert metrics.values["accuracy"] == pytest.approx(outcome.accuracy, abs=1e-6)


class Linear(nn.Linear):
    """Stands for a module of Lightning's."""

    def __init__(self):
        super().__init__(2, CLASSES)


def collected(loader, batches, dataloader_idx=0, watched=0):
    """What a consumer gets of the batches of a loader."""
    module, keeps = Linear(), Keeps()
    source = SimpleNamespace(task=ClassificationTask(), val_dataloader_idx=watched, watched=lambda _: loader)
    stand_in = SimpleNamespace(strategy=SimpleNamespace(model=module))
    collector = ValidationCollector(source, stand_in, [keeps])
    for batch in batches:
        collector.begin_batch(module, batch, dataloader_idx)
        module(batch[0])
        collector.end_batch(stand_in, module, dataloader_idx)
    assert not module._forward_hooks
    return keeps.got


def test_padding_is_counted_over_batches():
    """61 samples on 7 processes are 9 each; the last five processes have one sample of padding."""
    val = torch.utils.data.TensorDataset(torch.randn(61, 2), torch.zeros(61).long())
    for rank in range(7):
        sampler = DistributedSampler(val, num_replicas=7, rank=rank, shuffle=False)
        loader = DataLoader(val, batch_size=4, sampler=sampler)
        found = collected(loader, loader)
        assert [len(targets) for _, _, targets, _ in found] == [4, 4, 1]
        assert [count for *_, count in found] == [4, 4, int(rank < 5)]


def test_all_of_a_batch_counts_where_there_is_no_padding():
    loader = Data().val_dataloader()
    found = collected(loader, loader)
    assert [count for *_, count in found] == [50, 50, 20]


def test_other_loaders_are_ignored():
    loader = Data().val_dataloader()
    assert collected(loader, loader, dataloader_idx=1) == []
    assert len(collected(loader, loader, dataloader_idx=1, watched=1)) == 3


def test_stopping_leaves_no_hook():
    module = Linear()
    source = SimpleNamespace(task=ClassificationTask(), val_dataloader_idx=0, watched=lambda _: None)
    collector = ValidationCollector(source, None, [])
    collector.begin_batch(module, (torch.zeros(1, 2), torch.tensor([0])), 0)
    assert module._forward_hooks
    collector.stop()
    assert not module._forward_hooks
