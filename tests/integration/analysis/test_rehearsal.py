"""The analysis is tried before the fit: problems are found before the first step, and its cost is known."""

import re
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, Timer
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from lightning_pareto import ParetoCallback
from lightning_pareto.influence.cost import Cost
from lightning_pareto.integration.analysis import rehearsal
from tests.integration._models import Data, Plain, datasets, trainer


class Untrained(Plain):
    """Must not be trained."""

    def training_step(self, batch, batch_idx):
        raise AssertionError("a step was made")


class Blurred(TensorDataset):
    """Adds noise to every sample that is read, as an augmentation does."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.randn(2) / 100, y


class Relabelled(TensorDataset):
    """Draws a label for every read."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x, (y + torch.randint(4, ())) % 4


class Mixing(Plain):
    """Normalises over the batch."""

    def forward(self, x):
        return self.network(x - x.mean(dim=0))


def test_random_transform_is_reported_before_the_first_step_and_once(tmp_path):
    class Ends(Plain):
        def training_step(self, batch, batch_idx):
            warnings.warn("a step was made", stacklevel=1)
            return super().training_step(batch, batch_idx)

    data = Data(Blurred(*datasets()[0].tensors))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=1).fit(Ends(), datamodule=data)
    texts = [str(each.message) for each in found]
    random = [i for i, text in enumerate(texts) if "a different sample each time" in text]
    assert len(random) == 1
    assert random[0] < texts.index("a step was made")


def test_random_labels_are_refused_before_the_first_step(tmp_path):
    data = Data(Relabelled(*datasets()[0].tensors))
    with pytest.raises(ValueError, match="in one read and"):
        trainer(tmp_path, ParetoCallback(verbose=False)).fit(Untrained(), datamodule=data)


def test_model_that_mixes_samples_is_reported_before_the_first_step(tmp_path):
    class Stops(Mixing):
        def training_step(self, batch, batch_idx):
            raise KeyError("a step was made")

    with pytest.warns(UserWarning, match="changes with the other samples"), pytest.raises(KeyError):
        trainer(tmp_path, ParetoCallback(verbose=False)).fit(Stops(), datamodule=Data())


class Observing(Plain):
    """Changes buffers in every forward pass: in place, by another tensor, and by another shape."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("largest", torch.zeros(2))
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("scale", torch.ones(1).expand(2))

    def forward(self, x):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * x.mean(dim=0))
            self.largest = torch.maximum(self.largest, x.amax(dim=0))
            if not len(self.seen):
                self.seen.resize_(1).zero_()
            self.seen.add_(len(x))
        return super().forward(self.scale * x - self.mean / (1 + self.largest.abs()))


class Augmented(Data):
    """Its training samples get noise from a generator of their own, and are kept in the order of their first reads."""

    class Noisy(Dataset):
        def __init__(self, dataset):
            self.dataset, self.generator = dataset, np.random.default_rng(0)
            self.rows, self.kept, self.used = {}, torch.zeros(len(dataset), 2), 0

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, index):
            x, y = self.dataset[index]
            if index not in self.rows:
                self.rows[index], self.kept[self.used] = self.used, x
                self.used += 1
            return self.kept[self.rows[index]] + torch.from_numpy(self.generator.normal(size=2)).float(), y

    def __init__(self, **options):
        super().__init__(**options)
        self.train = Subset(self.Noisy(self.train), range(len(self.train)))


@pytest.mark.filterwarnings("ignore:the model's output for a sample", "ignore:the training dataset returns a different")
@pytest.mark.parametrize(("kind", "data"), [(Plain, Data), (Observing, Data), (Plain, Augmented)])
def test_fit_is_the_same_to_the_bit(tmp_path, kind, data):
    def fitted(*callbacks):
        torch.manual_seed(0)
        model = kind()
        trainer(tmp_path, *callbacks).fit(model, datamodule=data(batch_size=10))  # enough batches to be timed
        return torch.cat([p.flatten() for p in (*model.parameters(), *model.buffers())])

    assert torch.equal(fitted(), fitted(ParetoCallback(verbose=False)))


def test_cost_is_printed_before_the_fit(tmp_path, capsys):
    class Stops(Plain):
        def training_step(self, batch, batch_idx):
            raise KeyError("a step was made")

    with pytest.raises(KeyError):
        trainer(tmp_path, ParetoCallback()).fit(Stops(), datamodule=Data(batch_size=10))
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Analysis after the fit: as long as \S+ epochs of training \(.* 116 parameters per", printed)


def test_duration_that_is_not_known_is_said_to_be_unknown(tmp_path, capsys):
    trainer(tmp_path, ParetoCallback(), max_epochs=1).fit(Plain(), datamodule=Data(batch_size=64))
    printed = " ".join(capsys.readouterr().out.split())
    assert "How long it takes is unknown: the training set has fewer than 20 batches per process" in printed


LONG = Cost(4, 8, 116, 1.0, 8.0, epochs=412.0, seconds=90.0)
LARGE = Cost(4, 8, 10**9, 100.0, 48.0)


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (LONG, r"as long as 410 epochs.*than the fit \(2.1 epochs\).*layers=\['network\.3\.\*'\]"),
        (
            LARGE,
            r"needs up to 100 GiB for a gradient of 1 billion .* but only 48 GiB are free.*layers=\['network\.3\.\*'\]",
        ),
    ],
    ids=["long", "large"],
)
def test_analysis_that_costs_too_much_gets_a_warning_with_the_remedy(tmp_path, monkeypatch, cost, text):
    monkeypatch.setattr(rehearsal, "cost_of", lambda *_: cost)
    with pytest.warns(UserWarning, match=text):
        trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=2).fit(Plain(), datamodule=Data())


@pytest.mark.parametrize(("epochs", "seconds"), [(1.9, 90.0), (30.0, 1.0)])
def test_analysis_shorter_than_the_fit_or_than_a_minute_gets_none(tmp_path, monkeypatch, epochs, seconds):
    monkeypatch.setattr(rehearsal, "cost_of", lambda *_: replace(LONG, epochs=epochs, seconds=seconds))
    trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=2).fit(Plain(), datamodule=Data())


class Wide(Plain):
    """Most of its parameters are in the first layer."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 99), nn.ReLU(), nn.Linear(99, 9), nn.ReLU(), nn.Linear(9, 4))


@pytest.mark.parametrize(
    ("layers", "advice"),
    [
        (None, ["!network.2.weight", "!network.2.bias"]),
        (["*.weight"], ["*.weight", "!network.2.weight"]),
        (["*.0.*", "*.4.*"], ["!network.0.weight", "!network.0.bias"]),
    ],
    ids=str,
)
def test_advice_leaves_out_the_layer_with_most_parameters(tmp_path, monkeypatch, layers, advice):
    monkeypatch.setattr(rehearsal, "cost_of", lambda *_: LONG)
    advice = advice if layers is None or advice[0] in layers else [*layers, *advice]
    with pytest.warns(UserWarning, match=re.escape(f"layers={advice}")):
        trainer(tmp_path, ParetoCallback(verbose=False, layers=layers)).fit(Wide(), datamodule=Data())


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"max_epochs": 3}, 3.0),
        ({"max_epochs": -1, "max_steps": 6}, 0.25),
        ({"max_epochs": 3, "limit_train_batches": 12}, 1.5),
        ({"max_epochs": 4, "accumulate_grad_batches": 2}, 4.0),
        ({"max_epochs": -1}, float("inf")),
        ({"max_epochs": -1, "max_time": {"minutes": 3}}, 2 * 412.0),
        ({"max_epochs": 3, "max_time": {"minutes": 3}}, 3.0),
    ],
    ids=str,
)
def test_length_of_the_fit(tmp_path, monkeypatch, options, epochs):
    class Measures(Callback):
        def on_train_start(self, trainer, pl_module):
            found.append(rehearsal._epochs_of_fit(trainer, ParetoCallback().data, LONG))
            trainer.should_stop = True

    found = []
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: 0.0)
    trainer(tmp_path, Measures(), **options).fit(Plain(), datamodule=Data(batch_size=10))
    assert found == [pytest.approx(epochs)]


def test_length_of_a_fit_on_a_stream_is_not_known(tmp_path):
    source = ParetoCallback(train_dataloader=Data().train_dataloader()).data
    fit = SimpleNamespace(
        train_dataloader=None, estimated_stepping_batches=-1, accumulate_grad_batches=1, world_size=1, callbacks=[]
    )
    assert rehearsal._epochs_of_fit(fit, source, LONG) == float("inf")


def test_failure_that_training_may_mend_does_not_end_the_fit(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("not yet")

    monkeypatch.setattr(rehearsal, "cost_of", fail)
    callback = ParetoCallback(verbose=False)
    with pytest.warns(UserWarning, match="before the fit failed: not yet. The fit continues"):
        trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    assert callback.influence.scores.any()
