"""The analysis is tried before the fit: problems are found before the first step, and its cost is known."""

import warnings

import pytest
import torch
from torch.utils.data import TensorDataset

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


def test_fit_is_the_same_to_the_bit(tmp_path):
    def fitted(*callbacks):
        torch.manual_seed(0)
        model = Plain()
        trainer(tmp_path, *callbacks).fit(model, datamodule=Data(batch_size=10))  # enough batches to be timed
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(fitted(), fitted(ParetoCallback(verbose=False)))


def test_cost_is_printed_before_the_fit(tmp_path, capsys):
    class Stops(Plain):
        def training_step(self, batch, batch_idx):
            raise KeyError("a step was made")

    with pytest.raises(KeyError):
        trainer(tmp_path, ParetoCallback()).fit(Stops(), datamodule=Data(batch_size=10))
    printed = " ".join(capsys.readouterr().out.split())
    assert "Analysis after the fit: 32 directions of 116 parameters in" in printed
    assert "epochs of training" in printed


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (Cost(32, 116, 1.0, 8.0, epochs=3.0, seconds=90.0), r"as long as 3 epochs.*layers=\['network\.3\.\*'\]"),
        (Cost(32, 10**9, 100.0, 8.0), r"needs 100 GiB for directions, but only 8 GiB are free.*max_memory=2"),
    ],
)
def test_analysis_that_costs_too_much_gets_a_warning_with_the_remedy(tmp_path, monkeypatch, cost, text):
    monkeypatch.setattr(rehearsal, "cost_of", lambda *_: cost)
    with pytest.warns(UserWarning, match=text):
        trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=2).fit(Plain(), datamodule=Data())


@pytest.mark.parametrize(("epochs", "seconds"), [(1.9, 90.0), (30.0, 1.0)])
def test_analysis_shorter_than_the_fit_or_than_a_minute_gets_none(tmp_path, monkeypatch, epochs, seconds):
    monkeypatch.setattr(rehearsal, "cost_of", lambda *_: Cost(32, 116, 1.0, 8.0, epochs=epochs, seconds=seconds))
    trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=2).fit(Plain(), datamodule=Data())


def test_failure_that_training_may_mend_does_not_end_the_fit(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("not yet")

    monkeypatch.setattr(rehearsal, "cost_of", fail)
    callback = ParetoCallback(verbose=False)
    with pytest.warns(UserWarning, match="before the fit failed: not yet. The fit continues"):
        trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    assert callback.influence.scores.any()
