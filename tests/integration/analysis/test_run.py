"""Influence averaged over the checkpoints of a fit."""

import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_pareto import ParetoCallback
from tests.integration._models import Data, Plain, datasets, trainer


def fitted(tmp_path, checkpoint, **options):
    callback = ParetoCallback(checkpoint=checkpoint, verbose=False, curvature="identity", **options)
    kept = ModelCheckpoint(monitor="val_accuracy_macro", mode="max", save_top_k=2, filename="{epoch}")
    fit = trainer(tmp_path, callback, kept, max_epochs=3, enable_checkpointing=True)
    fit.fit(Plain(), datamodule=Data())
    return callback, kept


def test_averages_over_what_was_kept_or_named(tmp_path):
    callback, kept = fitted(tmp_path / "kept", "kept")
    names = callback.influence.metadata["checkpoint"]
    assert len(set(callback.influence.metadata["fingerprints"]["model"])) == 2
    assert sorted(names) == sorted(path.rpartition("/")[2] for path in kept.best_k_models)
    assert len(names) == 2
    named, _ = fitted(tmp_path / "named", list(kept.best_k_models))
    found = np.corrcoef(named.influence.scores.ravel(), callback.influence.scores.ravel())[0, 1]
    assert found > 0.999
    best, _ = fitted(tmp_path / "best", "best")
    assert np.corrcoef(best.influence.scores.ravel(), callback.influence.scores.ravel())[0, 1] < found


def test_nothing_kept_is_said(tmp_path):
    callback = ParetoCallback(checkpoint="kept", verbose=False, curvature="identity")
    with pytest.warns(UserWarning, match="needs a ModelCheckpoint that monitors something"):
        trainer(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data())
    assert callback.influence.metadata["checkpoint"] == "last weights"


def test_another_train_loader_must_have_as_many_samples(tmp_path):
    other = Data(*datasets(noise=0.0, train=90, val=90))
    callback = ParetoCallback(train_dataloader=other.train_dataloader())
    with pytest.raises(ValueError, match=r"reads 90 samples, the fit \d+: it must be over the same samples"):
        trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
