"""The analysis after a fit: at which weights, and what it is asked."""

import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_pareto import InfluenceMatrix, ParetoCallback
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.integration.analysis.run import AnalysisOptions, Question, verdict_on
from tests.integration._models import Data, Plain, trainer


def fitted(tmp_path, checkpoint, **options):
    callback = ParetoCallback(checkpoint=checkpoint, verbose=False, curvature="identity", **options)
    kept = ModelCheckpoint(monitor="val_accuracy_macro", mode="max", save_top_k=2, filename="{epoch}")
    fit = trainer(tmp_path, callback, kept, max_epochs=3, enable_checkpointing=True)
    fit.fit(Plain(), datamodule=Data())
    return callback, kept


def test_influence_is_averaged_over_kept_or_named_checkpoints(tmp_path):
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


def test_missing_checkpoints_are_reported(tmp_path):
    callback = ParetoCallback(checkpoint="kept", verbose=False, curvature="identity")
    with pytest.warns(
        UserWarning, match=r"needs a ModelCheckpoint that monitors something(.|\n)*ModelCheckpoint\(monitor="
    ):
        trainer(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data())
    assert callback.influence.metadata["checkpoint"] == "last weights"


def test_options_are_checked():
    with pytest.raises(ValueError, match="checkpoint must be 'best', 'last', 'kept' or a list of checkpoint files"):
        AnalysisOptions(influence=InfluenceOptions(), checkpoint="first")
    with pytest.raises(ValueError, match=r"max_memory .* found -1"):
        AnalysisOptions(influence=InfluenceOptions(), max_memory=-1)


def test_error_of_the_check_says_where_the_influence_is(tmp_path):
    influence = InfluenceMatrix(np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2)
    question = Question(budget=0.2, level=0.05, targets=["2"])
    with pytest.raises(RuntimeError, match=r"unknown target '2'.*The influence is kept: callback\.influence"):
        verdict_on(influence, question, None)
    with pytest.raises(RuntimeError, match=rf"InfluenceMatrix\.load\('{tmp_path / 'influence.safetensors'}'\)"):
        verdict_on(influence, question, tmp_path)
    assert verdict_on(influence, Question(budget=0.3, level=0.1), None).budget == 0.3
