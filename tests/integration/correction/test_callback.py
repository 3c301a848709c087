"""CourseCorrection in real fits."""

import csv
import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch import callbacks as pl_callbacks
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_pareto import Correction, CourseCorrection, ParetoCallback, ReweightedDataModule, SampleWeights
from lightning_pareto.integration.correction import weights as module_of_weights
from lightning_pareto.integration.correction.rules import Rules
from tests.evaluation._outcomes import by_category
from tests.integration._models import Data, Plain, trainer
from tests.integration.correction._spoilt import SPOILT, Spoils, SpoiltData


class Scheduled(Plain):
    """Has everything that a rerun must restore: a metric, batch norm, a buffer, a scheduler of a chosen kind."""

    def __init__(self, scheduler=None):
        super().__init__()
        self.scheduler = scheduler
        self.network = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))
        self.train_accuracy = torchmetrics.classification.MulticlassAccuracy(4)
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.steps += 1
        logits = self(x)
        self.train_accuracy(logits, y)
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return nn.functional.cross_entropy(logits, y)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        if self.scheduler is None:
            return optimizer
        if self.scheduler == "step":
            steps = self.trainer.estimated_stepping_batches
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
        if self.scheduler == "plateau":
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class ByHand(Scheduled):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.param_groups[0]["lr"] *= 0.99
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def fit(tmp_path, *callbacks, model=None, data=None, max_epochs=5, seed=0, ckpt_path=None, **options):
    torch.manual_seed(seed)
    model = Scheduled() if model is None else model()
    fitted = trainer(tmp_path, Spoils(), *callbacks, max_epochs=max_epochs, **options)
    fitted.fit(model, datamodule=data or SpoiltData(share=0.7), ckpt_path=ckpt_path)
    return fitted


def quiet(**options):
    return CourseCorrection(verbose=False, **options)


def never_kept(**options):
    return quiet(least_gain=0.999, **options)


def state(fitted):
    """Everything of a fit that has to be the same, as tensors and plain values."""
    module = getattr(fitted.lightning_module, "_orig_mod", fitted.lightning_module)
    return {
        "weights": {**dict(module.named_parameters()), **dict(module.named_buffers())},
        "optimizers": [each.state_dict() for each in fitted.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in fitted.lr_scheduler_configs],
        "precision": fitted.precision_plugin.state_dict(),
        "steps": fitted.global_step,
        "epochs": fitted.current_epoch,
        "random": [torch.get_rng_state(), np.random.get_state()[1].tolist()],
        "metrics": {k: v for k, v in fitted.callback_metrics.items() if not k.startswith("pareto/correction")},
        "loops": {
            k: v for k, v in fitted.fit_loop.state_dict().items() if not k.startswith("epoch_loop.val_loop._results")
        },
    }


def assert_same(found, expected, where=""):
    assert type(found) is type(expected), where
    if isinstance(found, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(found, dict):
        assert found.keys() == expected.keys(), where
        for key in found:
            assert_same(found[key], expected[key], f"{where}/{key}")
    elif isinstance(found, (list, tuple)):
        assert len(found) == len(expected), where
        for i, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{where}/{i}")
    elif not callable(found):
        assert found == expected, where


def test_epoch_that_harms_a_class_is_rerun(tmp_path, capsys):
    plain, corrected = Spied(), Spied()
    ordinary = fit(tmp_path, plain)
    callback = CourseCorrection(max_corrections=1, dirpath=tmp_path / "here")
    fitted = fit(tmp_path, callback, corrected)
    (done,) = callback.corrections
    assert (done.epoch, done.fallen, done.accepted) == (SPOILT, ("east",), True)
    assert done.category_names == ("east", "north", "west", "south")
    assert done.ordinary[0] < done.before[0] - 0.3
    assert done.again[0] > done.ordinary[0] + 0.3
    np.testing.assert_allclose(done.ordinary, plain.accuracies[SPOILT], rtol=1e-6)
    np.testing.assert_allclose(done.again, corrected.accuracies[SPOILT], rtol=1e-6)
    assert corrected.accuracies[:SPOILT] == plain.accuracies[:SPOILT]
    assert (fitted.global_step, fitted.current_epoch) == (ordinary.global_step, ordinary.current_epoch)
    assert f"CourseCorrection: {done}" in " ".join(capsys.readouterr().out.split())
    weights = SampleWeights.load(tmp_path / "here" / f"correction_{SPOILT}.safetensors")
    data = SpoiltData(share=0.7).train
    spoilt = (data.labels != data.others).numpy()
    assert weights.values[spoilt].mean() < 0.5 < 1 < weights.values[~spoilt].mean()
    assert json.loads((tmp_path / "here" / "corrections.json").read_text())[0]["fallen"] == ["east"]


class Spied(ParetoCallback):
    """Notes class-wise accuracies and learning rates once per epoch, as a callback that watches a metric does."""

    def __init__(self):
        super().__init__(analyse=False)
        self.accuracies, self.rates = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self._note(trainer)

    def on_train_end(self, trainer, pl_module):
        self._note(trainer)

    def _note(self, trainer):
        metrics = trainer.callback_metrics
        if "val_accuracy/east" in metrics:
            names = ("east", "north", "west", "south")
            self.accuracies.append([float(metrics[f"val_accuracy/{name}"]) for name in names])
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


CONFIGURATIONS = {
    "plain": {},
    "a schedule by step, accumulated": {"model": lambda: Scheduled("step"), "accumulate_grad_batches": 3},
    "a schedule by epoch": {"model": lambda: Scheduled("epoch")},
    "a schedule by plateau": {"model": lambda: Scheduled("plateau")},
    "half precision": {"precision": "bf16-mixed"},
    "double precision": {
        "data": lambda: SpoiltData(share=0.7, generator=torch.Generator().manual_seed(3)),
        "precision": "64-true",
    },
    "reloaded, no inference mode": {"reload_dataloaders_every_n_epochs": 1, "inference_mode": False},
    "no more steps than those of the last epoch": {"max_steps": 19 * (SPOILT + 1), "max_epochs": -1},
    "by hand": {"model": lambda: ByHand("step"), "data": lambda: SpoiltData(share=0.9)},
    "compiled": {"model": lambda: torch.compile(Plain(), backend="eager")},
    "workers": {"data": lambda: SpoiltData(share=0.7, num_workers=1)},
    "limited, dropping": {
        "data": lambda: SpoiltData(share=0.7, batch_size=50, drop_last=True),
        "limit_train_batches": 10,
    },
    "a generator": {"data": lambda: SpoiltData(share=0.7, generator=torch.Generator().manual_seed(3))},
    "a shuffled validation": {"data": lambda: SpoiltData(share=0.7, shuffle_val=True)},
    "the last epoch": {"max_epochs": SPOILT + 1},
}
AVERAGES = hasattr(pl_callbacks, "EMAWeightAveraging")  # from Lightning 2.6 on
if AVERAGES:
    CONFIGURATIONS["averaged weights"] = {"callbacks": lambda: [pl_callbacks.EMAWeightAveraging(decay=0.9)]}
SLOW = ("compiled", "workers")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CONFIGURATIONS]
WARNINGS = pytest.mark.filterwarnings(
    "ignore:Your `val_dataloader`'s sampler has shuffling enabled",
    "ignore:.*mark_dynamic.*",
    "ignore:Graph break due to unsupported builtin",  # torch 2.6, of Lightning's log
    "ignore:Consider setting `persistent_workers=True`",
)


def configured(name):
    options = dict(CONFIGURATIONS[name])
    if "data" in options:
        options["data"] = options["data"]()
    return options.pop("callbacks", list)(), options


@functools.cache
def ordinary_fit(name, folder):
    """The state after a fit without the callback, its steps and its epochs."""
    callbacks, options = configured(name)
    fitted = fit(folder, *callbacks, **options)
    return state(fitted), fitted.global_step, fitted.current_epoch


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("ordinary")


@WARNINGS
@pytest.mark.parametrize("name", NAMES)
def test_rerun_that_is_not_kept_leaves_no_trace(tmp_path, shared, name):
    expected, *_ = ordinary_fit(name, shared)
    callbacks, options = configured(name)
    callback = never_kept()
    found = state(fit(tmp_path, *callbacks, callback, **options))
    assert [done.accepted for done in callback.corrections][:1] == [False]
    assert callback.corrections[0].again, "it ran to its end"
    assert_same(found, expected)


BETTER = Rules.better


@WARNINGS
@pytest.mark.parametrize("name", NAMES)
def test_rerun_is_kept_in_every_kind_of_fit(tmp_path, shared, name, monkeypatch):
    # Versions of Lightning draw batches differently, and with some draws another class loses a little.
    monkeypatch.setattr(Rules, "better", lambda rules, *outcomes: BETTER(replace(rules, level=0.0001), *outcomes))
    ordinary, (_, steps, epochs) = Spied(), ordinary_fit(name, shared)
    callbacks, options = configured(name)
    callback, spied = quiet(max_corrections=1, level=0.2), Spied()
    fitted = fit(tmp_path, *callbacks, callback, spied, **options)
    (done,) = callback.corrections
    assert done.epoch == SPOILT
    assert done.accepted, str(done)
    assert (fitted.global_step, fitted.current_epoch) == (steps, epochs)
    assert len(ordinary.rates) == 0
    if not options.get("model"):
        return
    callbacks, options = configured(name)
    fit(tmp_path, *callbacks, ordinary, **options)
    if "plateau" not in name:
        np.testing.assert_allclose(spied.rates, ordinary.rates)


AVERAGED = pytest.param("averaged weights", marks=pytest.mark.skipif(not AVERAGES, reason="lightning 2.6"))


@pytest.mark.parametrize("name", ["plain", "a schedule by step, accumulated", "workers", AVERAGED])
@WARNINGS
def test_fit_without_a_fall_is_unchanged(tmp_path, name):
    def run(*more):
        callbacks, options = configured(name)
        options["data"] = options.get("data") or SpoiltData()
        fitted = trainer(
            tmp_path,
            *callbacks,
            *more,
            max_epochs=5,
            **{k: v for k, v in options.items() if k not in ("data", "model")},
        )
        torch.manual_seed(1)
        fitted.fit(options.get("model", Scheduled)(), datamodule=options["data"])
        return state(fitted)

    callback = quiet(warmup_epochs=0, threshold=0.5)
    assert_same(run(callback), run())
    assert callback.corrections == ()


def test_checkpoints_early_stopping_and_loggers_see_the_epoch_once(tmp_path):
    kept = ModelCheckpoint(
        tmp_path / "kept", monitor="val_accuracy/east", mode="max", save_top_k=-1, filename="{epoch}"
    )
    stopping = EarlyStopping("val_accuracy/east", mode="max", patience=10)
    logger = CSVLogger(tmp_path, name="csv")
    callback, spied = quiet(max_corrections=1), Spied()
    # these come before the callback, which moves itself to the front
    fitted = fit(tmp_path, kept, stopping, spied, callback, logger=logger, enable_checkpointing=True)
    (done,) = callback.corrections
    assert (done.epoch, done.accepted) == (SPOILT, True)
    scores = {path.split("=")[1].split(".")[0]: float(score) for path, score in kept.best_k_models.items()}
    assert scores == {str(epoch): each[0] for epoch, each in enumerate(spied.accuracies)}
    assert scores[str(SPOILT)] == pytest.approx(done.again[0])
    assert stopping.wait_count == len(scores) - 1 - int(np.argmax(list(scores.values())))
    saved = torch.load(tmp_path / "kept" / f"epoch={SPOILT}.ckpt", weights_only=True)
    model = Scheduled()
    model.load_state_dict(saved["state_dict"])
    x, y = SpoiltData().val.tensors
    right = (model.eval()(x).argmax(1) == y)[y == 0]
    assert float(right.float().mean()) == pytest.approx(done.again[0])
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["epoch"] == str(SPOILT)]
    logged = [float(row["val_accuracy/east"]) for row in rows if row["val_accuracy/east"]]
    assert logged == [pytest.approx(done.ordinary[0]), pytest.approx(done.again[0])]
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        figures = [row for row in csv.DictReader(file) if row["pareto/correction/accepted"]]
    assert [float(row["pareto/correction/accepted"]) for row in figures] == [1.0]
    assert float(figures[0]["pareto/correction/gain/east"]) == pytest.approx(done.again[0] - done.ordinary[0])
    assert fitted.callback_metrics["pareto/correction/accepted"] == 1


class CountsUpdates(Spied):
    """Notes how many batches the training metric of each epoch has seen."""

    def __init__(self):
        super().__init__()
        self.updates = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.updates.append(pl_module.train_accuracy.update_count)


@pytest.mark.parametrize("callback", [quiet, never_kept])
def test_training_metrics_count_one_of_the_runs(tmp_path, callback):
    counts, correction = CountsUpdates(), callback(max_corrections=1)
    fit(tmp_path, counts, correction, max_epochs=SPOILT + 1)
    assert len(correction.corrections) == 1
    assert counts.updates == [19] * (SPOILT + 1)


def test_rerun_that_is_not_kept_reaches_no_checkpoint(tmp_path):
    def run(*more):
        kept = ModelCheckpoint(tmp_path / str(len(more)), monitor="val_loss", save_top_k=2, save_last=True)
        fit(tmp_path, kept, EarlyStopping("val_loss", patience=1), *more, enable_checkpointing=True)
        return {path.rsplit("/", 1)[1]: float(score) for path, score in kept.best_k_models.items()}, kept.state_dict()

    ordinary, found = run(), run(never_kept())
    assert found[0] == ordinary[0]
    assert found[1]["best_model_score"] == ordinary[1]["best_model_score"]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("epoch", [SPOILT - 1, SPOILT, SPOILT + 1])
def test_resumed_fit_decides_like_the_uninterrupted_one(tmp_path, epoch):
    whole = quiet()
    kept = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{epoch}")
    expected = fit(tmp_path, kept, whole, data=SpoiltData(share=0.9), enable_checkpointing=True)
    callback = quiet()
    ckpt_path = tmp_path / "kept" / f"epoch={epoch}.ckpt"
    resumed = fit(tmp_path, callback, data=SpoiltData(share=0.9), ckpt_path=ckpt_path)
    first = callback.corrections[0]
    assert (first.epoch, first.fallen) == (SPOILT, ("east",))
    assert first.before == whole.corrections[0].before
    assert resumed.global_step == expected.global_step
    if epoch >= SPOILT:
        assert first == whole.corrections[0]


def test_last_outcome_survives_a_checkpoint(tmp_path):
    first, second = quiet(), quiet()
    first._before = by_category([1, 0, 1], [0, 0])
    first._record.add(Correction(3, ("cat",), ("cat", "dog"), (1.0, np.nan), (0.5, np.nan), (), False))
    first._able = False
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for name in ("category", "correct", "probability"):
        found, expected = (getattr(each._before, name) for each in (second, first))
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    assert second._before.category_names == ("cat", "dog", "cow")
    assert str(second.corrections) == str(first.corrections)
    assert not second._able
    second.load_state_dict(quiet().state_dict())
    assert second._before is None
    assert second._able
    assert second.corrections == ()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:You're resuming from a checkpoint")
def test_epoch_resumed_in_its_middle_is_not_corrected(tmp_path):
    kept = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{step}", every_n_train_steps=1)
    fit(tmp_path, kept, max_epochs=SPOILT + 1, enable_checkpointing=True)
    callback = quiet()
    fit(tmp_path, callback, max_epochs=SPOILT + 1, ckpt_path=tmp_path / "kept" / f"step={SPOILT * 19 + 2}.ckpt")
    assert callback.corrections == ()


def test_number_of_corrections_and_warmup_are_respected(tmp_path):
    callback = never_kept(warmup_epochs=SPOILT + 1)
    fit(tmp_path, callback)
    assert SPOILT not in [done.epoch for done in callback.corrections]
    callback = never_kept(max_corrections=0)
    fit(tmp_path, callback)
    assert callback.corrections == ()


def test_fit_continues_without_influence(tmp_path, monkeypatch):
    def fail(*_arguments, **_options):
        torch.rand(3)
        raise RuntimeError("no influence today")

    expected = state(fit(tmp_path))
    monkeypatch.setattr(module_of_weights, "influence_of", fail)
    callback = quiet()
    with pytest.warns(UserWarning, match="found no weights, and the fit continues without it: no influence today"):
        found = state(fit(tmp_path, callback))
    assert callback.corrections == ()
    assert_same(found, expected)


def test_weights_of_the_loader_stay_in_force(tmp_path):
    weights = np.ones(600)
    weights[:100] = 0
    data = SpoiltData(share=0.7)
    callback = quiet(dirpath=tmp_path / "pareto")
    drawn = Draws(data.train)
    torch.manual_seed(0)
    fitted = trainer(tmp_path, Spoils(), callback, drawn, max_epochs=SPOILT + 1)
    fitted.fit(Scheduled(), datamodule=ReweightedDataModule(data, weights))
    assert [done.epoch for done in callback.corrections] == [SPOILT]
    assert len(drawn.seen) == 500 * (SPOILT + 2)
    assert min(drawn.seen) >= 100


class Draws(ParetoCallback):
    def __init__(self, data):
        super().__init__(analyse=False)
        self.rows = {tuple(row): i for i, row in enumerate(data.inputs.tolist())}
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen += [self.rows[tuple(row)] for row in batch[0].tolist()]


def test_groups_other_than_the_classes(tmp_path):
    callback = quiet(categories=sides, category_names=["left", "right"], threshold=0.02)
    fit(tmp_path, callback)
    assert [done.fallen for done in callback.corrections][:1] == [("right",)], "east lies there"


def sides(batch):
    return (batch[0][:, 0] > 0).long()


class Interrupted(Spied):
    """Stops the fit in the rerun."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps += 1
        if self.steps > 19 * (SPOILT + 1) + 3:
            trainer.should_stop = True


def test_rerun_that_is_stopped_is_not_kept(tmp_path):
    callback = quiet(max_corrections=1)
    fitted = fit(tmp_path, callback, Interrupted())
    (done,) = callback.corrections
    assert not done.accepted
    assert done.again == ()
    assert fitted.global_step == 19 * (SPOILT + 1)
    assert "not kept" in str(done)


def test_callback_that_acts_before_the_decision_is_named(tmp_path):
    kept = ModelCheckpoint(tmp_path / "kept", save_on_train_epoch_end=False)
    with pytest.warns(UserWarning, match="ModelCheckpoint acts on the validation of an epoch before"):
        trainer(tmp_path, quiet(), kept, enable_checkpointing=True).fit(Plain(), datamodule=Data())


def test_rerun_works_with_a_progress_bar(tmp_path, capsys):
    callback = quiet()
    fit(tmp_path, callback, enable_progress_bar=True)
    assert callback.corrections[0].accepted


def test_fast_dev_run_is_left_alone(tmp_path):
    trainer(tmp_path, quiet(), fast_dev_run=True).fit(Plain(), datamodule=Data())


def test_rerun_that_is_not_kept_is_not_noticed(tmp_path):
    """Neither by a checkpoint from within the epoch, nor by a logger, apart from the correction's own figures."""

    def run(folder, *more):
        kept = ModelCheckpoint(folder / "kept", save_top_k=-1, filename="{step}", every_n_train_steps=5)
        logger = CSVLogger(folder, name="csv")
        fit(tmp_path, kept, *more, logger=logger, enable_checkpointing=True, log_every_n_steps=5)
        with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
            logged = [row["val_loss"] for row in csv.DictReader(file) if row["val_loss"]]
        return sorted(path.name for path in (folder / "kept").iterdir()), logged

    assert run(tmp_path / "with", never_kept(max_corrections=1)) == run(tmp_path / "without")


def test_text_of_a_correction_names_the_objection():
    def text(again, accepted=False):
        return str(Correction(4, ("4",), ("4", "8"), (0.9, 0.8), (0.6, 0.9), again, accepted))

    begin = "epoch 4 was rerun because '4' fell from 0.900 to 0.600"
    refused = "The rerun was not kept"
    assert text((0.9, 0.9), True) == f"{begin} (rerun 0.900). The rerun was kept"
    assert text((0.6, 0.95)) == f"{begin} (rerun 0.600). {refused}: '4' is at 0.600, after the ordinary epoch at 0.600"
    assert text((0.9, 0.7)) == f"{begin} (rerun 0.900). {refused}: '8' is at 0.700, after the ordinary epoch at 0.900"
    assert text(()) == f"{begin}. {refused}: it did not run to its end"
