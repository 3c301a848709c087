"""What a callback that watches validation epochs collects."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from lightning_pareto import ClassificationTask, ParetoCallback
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.validation.callback import ValidationCallback
from lightning_pareto.integration.validation.logits import Consumer
from lightning_pareto.integration.validation.metrics import ClasswiseMetrics, chosen_metrics
from lightning_pareto.integration.validation.outcomes import OutcomeRecorder
from tests.integration._models import CLASSES, Data, Plain, datasets, trainer


class Keeps(Consumer):
    """Keeps what it gets."""

    def __init__(self):
        self.got = []

    def update(self, batch, logits, targets, count):
        self.got.append((batch, logits, targets, count))


class Several(Consumer):
    """Passes on what it gets."""

    def __init__(self, *consumers):
        self.consumers = consumers

    def update(self, *batch):
        for consumer in self.consumers:
            consumer.update(*batch)


class Watches(ValidationCallback):
    """Keeps what it has collected in every validation epoch."""

    def __init__(self):
        super().__init__(DataSource(class_names=["a", "b", "c", "d"]))
        self.epochs = []

    def consumer(self, trainer):
        metrics = ClasswiseMetrics(chosen_metrics(["accuracy"]), trainer.strategy.root_device)
        return None if trainer.sanity_checking else Several(metrics, OutcomeRecorder(self.data), Keeps())

    def on_collected(self, trainer, module, consumer):
        metrics, recorder, keeps = consumer.consumers
        found = metrics.compute(trainer), recorder.outcome(trainer, module), keeps.got, predictions(module)
        self.epochs.append(found)


@torch.no_grad()
def predictions(module):
    return module(datasets()[1].tensors[0].to(module.device)).cpu()


def test_metrics_and_outcomes_of_an_epoch_agree_with_its_predictions(tmp_path):
    watches, calls = Watches(), []
    model = Plain()
    model.network.register_forward_hook(lambda module, *_: None if module.training else calls.append(1))
    trainer(tmp_path, watches, max_epochs=2).fit(model, datamodule=Data())
    assert len(watches.epochs) == 2, "the sanity check has no consumers"
    assert len(calls) == 2 + 2 * (3 + 1), "batches of the sanity check, then three a validation and one of this test"
    labels = datasets()[1].tensors[1]
    for metrics, outcome, got, logits in watches.epochs:
        torch.testing.assert_close(torch.cat([each[1] for each in got]).cpu(), logits, rtol=0, atol=1e-6)
        assert outcome.category.tolist() == labels.tolist()
        assert outcome.correct.tolist() == (logits.argmax(1) == labels).tolist()
        assert metrics.support.tolist() == outcome.support.tolist()
        assert metrics.values["accuracy"] == pytest.approx(outcome.accuracy, abs=1e-6)


class Kept(ValidationCallback):
    """Keeps what it has collected of this loader."""

    def __init__(self, loader, watched=0):
        super().__init__(
            SimpleNamespace(task=ClassificationTask(), val_dataloader_idx=watched, watched=lambda _: loader)
        )
        self.got = []

    def consumer(self, trainer):
        return Keeps()

    def on_collected(self, trainer, module, consumer):
        self.got = consumer.got


class Linear(nn.Linear):
    """Stands for a module of Lightning's."""

    def __init__(self):
        super().__init__(2, CLASSES)


def validating(module):
    """Stands in for a trainer that validates."""
    loop = SimpleNamespace(_combined_loader=None)
    state = SimpleNamespace(fn="validate")
    return SimpleNamespace(strategy=SimpleNamespace(model=module), validate_loop=loop, state=state)


def collected(loader, batches, dataloader_idx=0, watched=0):
    """What a consumer gets of the batches of a loader."""
    module, callback = Linear(), Kept(loader, watched)
    stand_in = validating(module)
    callback.on_validation_epoch_start(stand_in, module)
    for number, batch in enumerate(batches):
        callback.on_validation_batch_start(stand_in, module, batch, number, dataloader_idx)
        module(batch[0])
        callback.on_validation_batch_end(stand_in, module, None, batch, number, dataloader_idx)
    assert not module._forward_hooks
    callback.on_validation_epoch_end(stand_in, module)
    return callback.got


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


def test_error_leaves_no_hook():
    module, callback = Linear(), Kept(None)
    callback.on_validation_epoch_start(validating(module), module)
    callback.on_validation_batch_start(None, module, (torch.zeros(1, 2), torch.tensor([0])), 0)
    assert module._forward_hooks
    callback.on_exception(None, module, RuntimeError())
    assert not module._forward_hooks
    callback.on_validation_epoch_end(None, module)
    assert callback.got == []


@pytest.mark.parametrize("checks", [0, 2])
@pytest.mark.parametrize("dataloader_idx", [0, 1])
def test_combined_batches_of_several_loaders_are_refused_before_the_fit(tmp_path, checks, dataloader_idx):
    class Both(Data):
        mode = "max_size"

        def val_dataloader(self):
            return CombinedLoader([DataLoader(self.val, 40), DataLoader(self.train, 40)], self.mode)

    class Steps(Plain):
        def training_step(self, batch, batch_idx):
            assert data.mode == "sequential"
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            assert data.mode == "sequential"

    data, callback = Both(), ParetoCallback(val_dataloader_idx=dataloader_idx, analyse=False)
    fit = trainer(tmp_path, callback, max_epochs=1, num_sanity_val_steps=checks)
    with pytest.raises(TypeError, match=r"one after the other, found .* 'max_size'"):
        fit.fit(Steps(), datamodule=data)
    data.mode = "sequential"
    trainer(tmp_path, callback, max_epochs=1).fit(Steps(), datamodule=data)
