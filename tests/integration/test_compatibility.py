"""Which of Lightning's features the analysis and a second fit work with, one row each.

examples/compatibility.md says the same in words, and names the rows that other tests cover.
"""

import copy
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from lightning_pareto import CourseCorrection, ParetoCallback, ReweightedDataModule, estimate_influence
from lightning_pareto.integration.correction.rules import Rules
from tests._asserts import assert_near
from tests._tolerances import TWO_PROCESSES
from tests.integration._models import CLASSES, Data, Plain, datasets, trainer
from tests.integration._tolerances import BFLOAT16

HALF = np.repeat([2.0, 0.0], 120)
ROWS = {
    tuple(row): i
    for kind in (torch.float32, torch.bfloat16)  # as batches come in half precision
    for i, row in enumerate(datasets()[0].tensors[0].to(kind).tolist())
}
PAGE = Path(__file__).parents[2] / "examples" / "compatibility.md"


class ByHand(Plain):
    """Manual optimisation, with two optimizers."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        first, second = self.optimizers()
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(loss)
        first.step()
        second.step()

    def configure_optimizers(self):
        halves = self.network[0].parameters(), self.network[3].parameters()
        return [torch.optim.SGD(half, lr=0.1) for half in halves]


class PartCompiled(Plain):
    """Compiles a part of itself."""

    def __init__(self):
        super().__init__()
        self.network = torch.compile(self.network, backend="eager")


class MadeLate(Plain):
    """Creates its layers in ``configure_model``."""

    def __init__(self):
        super().__init__()
        self.network = None

    def configure_model(self):
        if self.network is None:
            self.network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, CLASSES))


class OwnLoaders(Plain):
    """Defines its own loaders."""

    def train_dataloader(self):
        return Data().train_dataloader()

    def val_dataloader(self):
        return Data().val_dataloader()


class WithBackbone(Plain):
    """For BackboneFinetuning."""

    @property
    def backbone(self):
        return self.network[0]

    def configure_optimizers(self):
        return torch.optim.SGD((p for p in self.parameters() if p.requires_grad), lr=0.1)


class Silent(Plain):
    """Logs nothing."""

    def validation_step(self, batch, batch_idx):
        self(batch[0])


class Reloading(Data):
    """Counts how often its training loader is created."""

    made = 0

    def train_dataloader(self):
        self.made += 1
        return super().train_dataloader()


def compiled():
    return torch.compile(Plain(), backend="eager")


CASES = {
    "defaults": {},
    "strategy auto, accelerator auto": {"strategy": "auto", "accelerator": "auto"},
    "64-true": {"precision": "64-true"},
    "accumulate_grad_batches": {"accumulate_grad_batches": 3},
    "gradient_clip_val": {"gradient_clip_val": 0.1},
    "limit_train_batches": {"limit_train_batches": 2},
    "limit_val_batches": {"limit_val_batches": 1},
    "overfit_batches": {"overfit_batches": 2},
    "val_check_interval": {"val_check_interval": 0.5},
    "val_check_interval in batches": {"val_check_interval": 3, "check_val_every_n_epoch": None},
    "check_val_every_n_epoch": {"check_val_every_n_epoch": 2},
    "num_sanity_val_steps": {"num_sanity_val_steps": -1},
    "reload_dataloaders_every_n_epochs": {"reload_dataloaders_every_n_epochs": 1},
    "inference_mode off": {"inference_mode": False},
    "max_steps": {"max_steps": 5, "max_epochs": -1},
    "max_time": {"max_time": "00:00:10:00"},
    "detect_anomaly": {"detect_anomaly": True},
    "deterministic": {"deterministic": True},
    "profiler": {"profiler": "simple"},
    "use_distributed_sampler off": {"use_distributed_sampler": False},
    "manual optimisation, two optimizers": {"model": ByHand},
    "compiled module": {"model": compiled},
    "compiled part": {"model": PartCompiled},
    "configure_model": {"model": MadeLate},
    "loaders of the module": {"model": OwnLoaders, "data": lambda: None},
    "EarlyStopping": {"callbacks": lambda: [callbacks.EarlyStopping("val_loss", patience=0, min_delta=9.0)]},
    "GradientAccumulationScheduler": {"callbacks": lambda: [callbacks.GradientAccumulationScheduler({1: 2})]},
    "BackboneFinetuning": {
        "model": WithBackbone,
        "callbacks": lambda: [callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1)],
    },
    "StochasticWeightAveraging": {
        "callbacks": lambda: [callbacks.StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=1)],
        "max_epochs": 3,
    },
}
if hasattr(callbacks, "WeightAveraging"):  # lightning 2.6
    CASES["WeightAveraging"] = {"callbacks": lambda: [callbacks.WeightAveraging()]}
    CASES["EMAWeightAveraging"] = {"callbacks": lambda: [callbacks.EMAWeightAveraging(decay=0.9)]}
OTHER_NUMBERS = {
    '`precision="bf16-mixed"`': {"precision": "bf16-mixed"},
    '`precision="bf16-true"`': {"precision": "bf16-true"},
    '`precision="16-mixed"`': {"precision": "16-mixed"},
    "`barebones=True`": {"model": Silent, "barebones": True},
}
"""Rows whose influence has tests of its own."""

EXPECTED_WARNINGS = pytest.mark.filterwarnings(
    "ignore:You requested to overfit but enabled",
    "ignore:.*mark_dynamic.*",
    "ignore:The provided params to be frozen",
    "ignore:.*Anomaly Detection has been enabled",
    "ignore:You passed `Trainer.*Using `precision='bf16-mixed'` instead",
)


def fit_of(folder, *others, model=Plain, data=Data, callbacks=list, **options):
    """A finished fit, its module and its trainer."""
    torch.manual_seed(0)
    module, fit = model(), trainer(folder, *callbacks(), *others, **options)
    fit.fit(module, datamodule=data())
    assert fit.state.finished
    return module, fit


def fitted(folder, callback, **options):
    """The trained module, without the wrapper of ``torch.compile``."""
    module, _ = fit_of(folder, callback, **options)
    return getattr(module, "_orig_mod", module)


@EXPECTED_WARNINGS
@pytest.mark.parametrize("name", CASES)
def test_influence_is_that_of_the_trained_model_on_all_samples(tmp_path, name):
    callback, data = ParetoCallback(verbose=False), Data()
    module = fitted(tmp_path, callback, **CASES[name]).float()
    expected = estimate_influence(module, data.train_dataloader(), data.val_dataloader())
    assert_near(callback.influence.scores, expected.scores, TWO_PROCESSES)
    assert callback.influence.support.sum() == 120
    assert callback.verdict.held_out_gain.shape == (CLASSES,)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_influence_in_half_precision_is_near_that_in_float32(tmp_path, precision):
    callback, data = ParetoCallback(curvature="identity", verbose=False), Data()
    module = fitted(tmp_path, callback, precision=precision).float()
    expected = estimate_influence(module, data.train_dataloader(), data.val_dataloader(), curvature="identity")
    assert callback.influence.scores.dtype == np.float32
    assert_near(callback.influence.scores, expected.scores, BFLOAT16)
    fitted(tmp_path, callback := ParetoCallback(verbose=False), precision=precision)
    assert callback.verdict.held_out_gain.shape == (CLASSES,)


def test_float16_is_bfloat16_on_the_cpu(tmp_path):
    callback = ParetoCallback(verbose=False)
    with pytest.warns(UserWarning, match="Using `precision='bf16-mixed'` instead"):
        fitted(tmp_path, callback, precision="16-mixed")
    assert callback.influence.scores.shape == (240, CLASSES)


def test_barebones_trainer_logs_nothing_but_is_analysed(tmp_path):
    callback = ParetoCallback(verbose=False)
    bare = pl.Trainer(barebones=True, max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, callbacks=[callback])
    bare.fit(Silent(), datamodule=Data())
    assert not [name for name in bare.callback_metrics if name.startswith("val_")]
    assert callback.influence.scores.shape == (240, CLASSES)


class Combined(Data):
    def __init__(self, mode):
        super().__init__()
        self.mode = mode

    def train_dataloader(self):
        return CombinedLoader({"ours": super().train_dataloader(), "other": super().train_dataloader()}, self.mode)


class TakesOurs(Plain):
    def training_step(self, batch, batch_idx):
        batch = batch[0] if isinstance(batch, tuple) else batch
        return super().training_step(batch["ours"], batch_idx)


@pytest.mark.filterwarnings("ignore:the task cannot read the training batches in training mode")
@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_several_train_loaders_require_a_choice(tmp_path, mode):
    with pytest.raises(TypeError, match=r"found dict(.|\n)*train_dataloader=…"):
        fitted(tmp_path, ParetoCallback(), model=TakesOurs, data=lambda: Combined("min_size"))
    callback, data = ParetoCallback(train_dataloader=Data().train_dataloader(), verbose=False), Data()
    module = fitted(tmp_path, callback, model=TakesOurs, data=lambda: Combined(mode))
    expected = estimate_influence(module, data.train_dataloader(), data.val_dataloader())
    assert_near(callback.influence.scores, expected.scores, TWO_PROCESSES)


def test_second_fit_with_the_same_trainer_replaces_the_influence(tmp_path):
    callback, model, data = ParetoCallback(verbose=False), Plain(), Data()
    fit = trainer(tmp_path, callback)
    fit.fit(model, datamodule=data)
    first = callback.influence
    fit.fit_loop.max_epochs = 4
    fit.fit(model, datamodule=data)
    assert not np.array_equal(first.scores, callback.influence.scores)
    expected = estimate_influence(model, data.train_dataloader(), data.val_dataloader())
    assert_near(callback.influence.scores, expected.scores, TWO_PROCESSES)


class Counts(callbacks.Callback):
    """How often each sample is drawn, one row per epoch."""

    def __init__(self):
        self.epochs = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        counts = self.epochs.setdefault(trainer.current_epoch, np.zeros(240))
        np.add.at(counts, [ROWS[tuple(row)] for row in batch[0].float().tolist()], 1)


EVERY = CASES | OTHER_NUMBERS
WEIGHTED = [name for name in EVERY if name not in ("defaults", "loaders of the module", "overfit_batches")]


@EXPECTED_WARNINGS
@pytest.mark.parametrize("name", WEIGHTED)
def test_weighted_fit_draws_by_weight(tmp_path, name):
    options, counts = copy.copy(EVERY[name]), Counts()
    others = options.pop("callbacks", list)()
    data = ReweightedDataModule(Reloading(), HALF)
    fitted(tmp_path, ParetoCallback(analyse=False), data=lambda: data, callbacks=lambda: [*others, counts], **options)
    drawn = next(iter(counts.epochs.values()))
    assert drawn[120:].sum() == 0
    if name == "limit_train_batches":
        assert drawn.sum() == 64
    elif name != "max_steps":
        np.testing.assert_array_equal(drawn, HALF)
    if name == "reload_dataloaders_every_n_epochs":
        assert data.made >= 2


def test_fast_dev_run_draws_by_weight(tmp_path):
    counts = Counts()
    fitted(tmp_path, counts, data=lambda: ReweightedDataModule(Data(), HALF), fast_dev_run=True)
    assert counts.epochs[0].sum() == 32
    assert counts.epochs[0][120:].sum() == 0


def test_second_fit_with_the_same_trainer_draws_by_weight(tmp_path):
    counts, data, model = Counts(), ReweightedDataModule(Data(), HALF), Plain()
    fit = trainer(tmp_path, counts)
    fit.fit(model, datamodule=data)
    fit.fit_loop.max_epochs = 4
    fit.fit(model, datamodule=data)
    assert list(counts.epochs) == [0, 1, 2, 3]
    for drawn in counts.epochs.values():
        np.testing.assert_array_equal(drawn, HALF)


REFUSED = {
    "overfit_batches": "cannot sample by weight under overfit_batches: remove one of them",
    "val_check_interval": "compares one validation at the end of every epoch",
    "val_check_interval in batches": "compares one validation at the end of every epoch",
    "check_val_every_n_epoch": "compares one validation at the end of every epoch",
    "StochasticWeightAveraging": "use WeightAveraging or EMAWeightAveraging",
}
CORRECTED = [
    name for name in EVERY if name != "max_steps"
]  # which is less than an epoch here: correction/test_callback.py


def watching(monkeypatch, keeps):
    """Corrects the second epoch whatever happens in it, and keeps the rerun or not."""
    monkeypatch.setattr(Rules, "fallen", lambda *_: [0])
    monkeypatch.setattr(Rules, "better", lambda *_: keeps)
    return CourseCorrection(warmup_epochs=1, max_corrections=1, curvature="identity", verbose=False)


def weights_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@EXPECTED_WARNINGS
@pytest.mark.parametrize("name", CORRECTED)
def test_an_epoch_is_rerun(tmp_path, monkeypatch, name):
    """A rerun that is kept counts once and changes the weights. One that is not kept leaves no trace."""
    kept, not_kept = watching(monkeypatch, True), watching(monkeypatch, False)
    if name in REFUSED:
        with pytest.raises((ValueError, TypeError), match=REFUSED[name]):
            fit_of(tmp_path, kept, **EVERY[name])
        return
    ordinary, expected = fit_of(tmp_path, **EVERY[name])
    same, _ = fit_of(tmp_path, not_kept, **EVERY[name])
    assert torch.equal(weights_of(same), weights_of(ordinary))
    other, fit = fit_of(tmp_path, watching(monkeypatch, True), **EVERY[name])
    assert not torch.equal(weights_of(other), weights_of(ordinary))
    assert (fit.global_step, fit.current_epoch) == (expected.global_step, expected.current_epoch)
    for each in (not_kept, fit.callbacks[0]):
        (done,) = each.corrections
        assert (done.epoch, len(done.again)) == (1, CLASSES)


def test_second_fit_with_the_same_trainer_has_its_own_corrections(tmp_path, monkeypatch):
    watch, model, data = watching(monkeypatch, True), Plain(), Data()
    fit = trainer(tmp_path, watch)
    fit.fit(model, datamodule=data)
    assert [done.epoch for done in watch.corrections] == [1]
    fit.fit_loop.max_epochs = 4
    fit.fit(model, datamodule=data)
    assert [done.epoch for done in watch.corrections] == [3], "the first epoch of a fit cannot be corrected"
    assert fit.global_step == 4 * 8


def test_every_row_is_on_the_page():
    page = PAGE.read_text()
    assert [name for name in EVERY if f"| {name} |" not in page] == []
