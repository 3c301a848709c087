"""Influence averaged over the checkpoints of a fit."""

import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_pareto import ParetoCallback
from tests.integration._models import Data, Plain, trainer


def fitted(tmp_path, checkpoint, **options):
    callback = ParetoCallback(checkpoint=checkpoint, verbose=False, curvature="identity", **options)
    kept = ModelCheckpoint(monitor="val_accuracy_macro", mode="max", save_top_k=2, filename="{epoch}")
    fit = trainer(tmp_path, callback, kept, max_epochs=3, enable_checkpointing=True)
    fit.fit(Plain(), datamodule=Data())
    return callback, kept


def test_averages_over_what_was_kept_or_named(tmp_path):
    callback, kept = fitted(tmp_path / "kept", "kept")
    names = [each["checkpoint"] for each in callback.influence.metadata["averaged"]]
    assert sorted(names) == sorted(path.rpartition("/")[2] for path in kept.best_k_models)
    assert len(names) == 2
    named, _ = fitted(tmp_path / "named", list(kept.best_k_models))
    found = np.corrcoef(named.influence.scores.ravel(), callback.influence.scores.ravel())[0, 1]
    assert found > 0.999
    best, _ = fitted(tmp_path / "best", "best")
    assert np.corrcoef(best.influence.scores.ravel(), callback.influence.scores.ravel())[0, 1] < found


@pytest.mark.parametrize("checkpoint", ["first", [], 3, None])
def test_an_unknown_choice_is_an_error(checkpoint):
    with pytest.raises(ValueError, match="'best', 'last', 'kept' or a list"):
        ParetoCallback(checkpoint=checkpoint)
