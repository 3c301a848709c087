"""Where a callback's samples and the names of their classes come from."""

import pytest
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_pareto import ParetoCallback
from tests.integration._models import Data, Plain, datasets, trainer


def test_class_names_are_found_in_subsets_and_in_validation(tmp_path):
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


def test_class_names_that_are_not_different_are_not_used(tmp_path):
    train, val = datasets()
    train.classes = ("a", "a", "b", "c")
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), DataLoader(train), DataLoader(TensorDataset(*val.tensors)))
    assert callback.influence.category_names == tuple("0123")


def test_another_train_loader_must_have_as_many_samples(tmp_path):
    other = Data(*datasets(noise=0.0, train=90, val=90))
    callback = ParetoCallback(train_dataloader=other.train_dataloader())
    with pytest.raises(ValueError, match=r"reads 90 samples, but the fit reads 240\. Both must have the same samples"):
        trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
