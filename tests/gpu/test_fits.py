"""The main job on a GPU: class-wise metrics, influence, verdict and weighted fits in every precision."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_pareto import (
    ParetoCallback,
    ParetoTuner,
    ReweightedDataModule,
    estimate_influence,
    reweight,
)
from tests._asserts import assert_near
from tests._tolerances import GPU
from tests.integration._models import CLASSES, Data, Plain, trainer

CORRELATION = {
    "32-true": 0.9999,
    "64-true": 0.9999,
    "bf16-mixed": 0.98,
    "16-mixed": 0.98,
    "bf16-true": 0.95,
    "16-true": 0.95,
}
"""Least correlation with the scores of the same model on the CPU in float64. The rest is rounding."""


class ForHalfPrecision(Plain):
    """Adam divides by zero if its epsilon vanishes in float16."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05, eps=1e-4)


def fitted(tmp_path, callback, *others, data=None, max_epochs=4, **options):
    torch.manual_seed(0)
    module = ForHalfPrecision()
    fit = trainer(tmp_path, callback, *others, max_epochs=max_epochs, **options)
    fit.fit(module, datamodule=data or Data(pin_memory=True))
    assert fit.strategy.root_device.type == "cuda"
    return module, fit


def accuracies(module, data):
    """Accuracy per class on the CPU in float64, (K,)."""
    x, y = data.tensors
    with torch.no_grad():
        predicted = copy.deepcopy(module).cpu().double().eval()(x.double()).argmax(dim=1)
    return np.array([(predicted[y == k] == k).double().mean().item() for k in range(CLASSES)])


@pytest.mark.parametrize("precision", CORRELATION)
def test_the_main_job_in_every_precision(tmp_path, precision):
    pareto = ParetoCallback(budget=0.3, verbose=False)
    module, fit = fitted(tmp_path / "first", pareto, precision=precision)
    exact, data = copy.deepcopy(module).cpu().double(), Data()
    data.train.tensors, data.val.tensors = ((x.double(), y) for x, y in (data.train.tensors, data.val.tensors))
    expected = estimate_influence(exact, data.train_dataloader(), data.val_dataloader()).scores
    found = pareto.influence.scores
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    correlation = min(np.corrcoef(found[:, k], expected[:, k])[0, 1] for k in range(CLASSES))
    assert correlation >= CORRELATION[precision]
    assert pareto.verdict.held_out_gain.shape == (CLASSES,)
    logged = [float(fit.callback_metrics[f"val_accuracy/{name}"]) for name in data.train.classes]
    assert np.abs(logged - accuracies(module, data.val)).max() <= (0.04 if "16" in precision else 1e-6)

    reweighted = ReweightedDataModule(Data(), reweight(pareto.influence))
    second, _ = fitted(tmp_path / "second", ParetoCallback(analyse=False), data=reweighted, precision=precision)
    assert all(torch.isfinite(parameter).all() for parameter in second.parameters())


def test_influence_at_the_best_checkpoint(tmp_path):
    pareto, best = ParetoCallback(verbose=False), ModelCheckpoint(tmp_path, monitor="val_accuracy_macro", mode="max")
    fitted(tmp_path, pareto, best, enable_checkpointing=True)
    assert pareto.influence.metadata["checkpoint"] == Path(best.best_model_path).name
    module, data = Plain.load_from_checkpoint(best.best_model_path, map_location="cpu"), Data()
    expected = estimate_influence(module, data.train_dataloader(), data.val_dataloader())
    assert_near(pareto.influence.scores, expected.scores, GPU[torch.float32])


def test_a_fit_with_everything_deterministic(tmp_path):
    """Lightning then refuses operations whose result depends on the order of threads."""
    first, second = ParetoCallback(verbose=False), ParetoCallback(verbose=False)
    for callback in (first, second):
        fitted(tmp_path, callback, deterministic=True)
    np.testing.assert_array_equal(first.influence.scores, second.influence.scores)


def test_a_search(tmp_path):
    tuner = ParetoTuner(
        lambda: trainer(tmp_path / "user", max_epochs=3),
        callback=ParetoCallback(verbose=False),
        dirpath=tmp_path / "search",
        verbose=False,
    )
    module = Plain()
    result = tuner.fit(module, Data())
    assert result.epochs_spent > 0
    assert len(result.trials) >= 3
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())
