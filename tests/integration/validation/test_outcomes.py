"""Which validation samples the model gets right, recorded in an epoch or measured in a pass of its own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.validation import outcomes
from lightning_pareto.integration.validation.outcomes import OutcomeRecorder, measure_outcome
from tests.integration._models import Data, Plain, datasets, trainer

NAMES = ("a", "b", "c")


def batch_of(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, generator=generator), torch.randint(3, (size,), generator=generator)


def process(index=0, count=1, add=lambda mine: mine):
    """A trainer and a module of a process; ``add`` adds what the other processes have."""
    return SimpleNamespace(index=index, count=count, sum=add)


def recorded(recorder, monkeypatch, shard=None):
    monkeypatch.setattr(outcomes, "shard_of", lambda *_: shard or process())
    return recorder.outcome(None, None)


def test_batches_are_recorded_in_order_without_their_padding(monkeypatch):
    recorder, parts = OutcomeRecorder(DataSource(class_names=NAMES)), []
    for size, count, seed in ((5, 5, 0), (5, 2, 1), (4, 0, 2)):
        logits, targets = batch_of(size, seed)
        recorder.update(None, logits, targets, count)
        parts.append((logits[:count], targets[:count]))
    found = recorded(recorder, monkeypatch)
    logits, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    assert found.category.tolist() == targets.tolist()
    assert found.correct.tolist() == (logits.argmax(1) == targets).tolist()
    expected = logits.double().softmax(1)[torch.arange(7), targets]
    np.testing.assert_allclose(found.probability, expected, rtol=1e-12)
    assert found.category_names == NAMES


def test_half_precision_logits_have_probabilities_of_full_precision(monkeypatch):
    recorder, (logits, targets) = OutcomeRecorder(DataSource(class_names=NAMES)), batch_of(6, 0)
    recorder.update(None, logits.bfloat16(), targets, 6)
    expected = logits.bfloat16().double().softmax(1)[torch.arange(6), targets]
    np.testing.assert_allclose(recorded(recorder, monkeypatch).probability, expected, rtol=1e-6)


@pytest.mark.parametrize("names", [None, ["left", "right", "nobody"]])
def test_categories_of_the_user_are_read_from_the_batch(monkeypatch, names):
    source = DataSource(categories=lambda batch: batch["side"], category_names=names)
    recorder, (logits, targets) = OutcomeRecorder(source), batch_of(4, 0)
    recorder.update({"side": torch.tensor([1, 0, 1, 1])}, logits, targets, 3)
    found = recorded(recorder, monkeypatch)
    assert found.category.tolist() == [1, 0, 1]
    assert found.correct.tolist() == (logits.argmax(1) == targets)[:3].tolist()
    assert found.category_names == ("0", "1") if names is None else tuple(names)


@pytest.mark.parametrize("count", [3, 2])
def test_samples_of_the_processes_come_one_after_the_other(monkeypatch, count):
    """This is the second of two processes; the first has three samples, as it says when sizes are summed."""
    recorder, (logits, targets) = OutcomeRecorder(DataSource(class_names=NAMES)), batch_of(3, 0)
    recorder.update(None, logits, targets, count)

    def add(mine):
        if mine.dtype == torch.int64:
            return mine + torch.tensor([3, 0])
        others = torch.zeros_like(mine)
        others[:, :3] = torch.tensor([[2.0] * 3, [2.0, 0.0, 2.0], [1.0, 0.0, 1.0], [0.5, 0.25, 0.75], [3.0] * 3])
        return mine + others

    found = recorded(recorder, monkeypatch, process(1, 2, add))
    right = (logits.argmax(1) == targets)[:count]
    assert found.category.tolist() == [2, 2, 2, *targets[:count].tolist()]
    assert found.correct.tolist() == [True, False, True, *right.tolist()]
    assert found.probability[:3].tolist() == [0.5, 0.25, 0.75]
    assert found.predicted.tolist() == [2, 0, 2, *logits.argmax(1)[:count].tolist()]


class Measures(Callback):
    """Measures the model at the end of the training."""

    def on_train_end(self, trainer, pl_module):
        state = torch.get_rng_state()
        self.found = measure_outcome(trainer, pl_module, DataSource())
        assert pl_module.training
        assert torch.equal(torch.get_rng_state(), state)


class Shuffled(Data):
    """Shuffles the validation samples."""

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=50, shuffle=True, drop_last=True)


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")
def test_a_pass_of_its_own_measures_every_sample_in_order(tmp_path):
    """Whatever the order of the loader, and however many batches a validation epoch reads."""
    measures, model, data = Measures(), Plain(), Shuffled()
    trainer(tmp_path, measures, max_epochs=1, limit_val_batches=1).fit(model, datamodule=data)
    x, y = datasets()[1].tensors
    logits = model.eval()(x).detach()
    assert measures.found.category.tolist() == y.tolist()
    assert measures.found.correct.tolist() == (logits.argmax(1) == y).tolist()
    np.testing.assert_allclose(measures.found.probability, logits.softmax(1)[torch.arange(120), y], rtol=1e-5)
    assert measures.found.category_names == ("east", "north", "west", "south")
