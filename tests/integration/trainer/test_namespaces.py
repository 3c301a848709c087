"""Projects that import ``pytorch_lightning`` instead of ``lightning.pytorch``."""

import copy
import pickle

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from lightning_pareto import CourseCorrection, ParetoCallback, ParetoTuner, ReweightedDataModule, reweighted_dataloader
from lightning_pareto.integration.trainer.namespaces import counterpart, is_a
from tests.integration import _models
from tests.integration.correction._spoilt import SPOILT, spoilt_datasets

pl = pytest.importorskip("pytorch_lightning", reason="pip install pytorch-lightning")


class Plain(pl.LightningModule):
    def __init__(self, lr=0.05):
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self(x), y), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


class Data(pl.LightningDataModule):
    def __init__(self, train=None, val=None):
        super().__init__()
        default = _models.datasets()
        self.train, self.val = train or default[0], val or default[1]
        self.seen = []

    def setup(self, stage):
        self.stage = stage

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=50)


def trainer(tmp_path, *callbacks, **options):
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": tmp_path,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**defaults, "callbacks": list(callbacks), **options})


def half():
    return np.repeat([2.0, 0.0], 120)


def test_callback_uses_the_best_checkpoint_of_the_other_namespace(tmp_path):
    kept = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val_accuracy_macro", mode="max")
    callback = ParetoCallback(verbose=False)
    fitted = trainer(tmp_path, callback, kept, enable_checkpointing=True)
    fitted.fit(Plain(), datamodule=Data())
    assert callback.influence.metadata["checkpoint"] == kept.best_model_path.split("/")[-1]
    assert callback.influence.scores.shape == (240, 4)
    assert "val_accuracy/north" in fitted.callback_metrics


class Seen(pl.Callback):
    """Notes which samples each training epoch draws."""

    def __init__(self, data):
        self.rows = {tuple(row): i for i, row in enumerate(data.tensors[0].tolist())}
        self.epochs = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.epochs[-1] += [self.rows[tuple(row)] for row in batch[0].tolist()]


def test_datamodules_of_the_other_namespace_are_reweighted_and_accepted(tmp_path):
    data, seen = Data(), Seen(_models.datasets()[0])
    wrapper = ReweightedDataModule(data, half())
    assert isinstance(wrapper, (ReweightedDataModule, pl.LightningDataModule))
    trainer(tmp_path, seen).fit(Plain(), datamodule=wrapper)
    assert [np.bincount(epoch, minlength=240).tolist() for epoch in seen.epochs] == [half().tolist()] * 2
    assert data.stage == "fit"


def test_hooks_that_the_datamodule_lacks_stay_undefined():
    overridden = pl.utilities.model_helpers.is_overridden
    wrapper = ReweightedDataModule(Data(), half())
    found = [n for n in ("setup", "val_dataloader", "test_dataloader", "prepare_data") if overridden(n, wrapper)]
    assert found == ["setup", "val_dataloader"]


@pytest.mark.parametrize("make", [Data, _models.Data])
def test_wrappers_of_either_namespace_can_be_copied_and_pickled(make):
    wrapper = ReweightedDataModule(make(), half(), seed=3)
    for twin in (pickle.loads(pickle.dumps(wrapper)), copy.deepcopy(wrapper), copy.copy(wrapper)):
        assert type(twin) is type(wrapper)
        assert isinstance(twin, ReweightedDataModule)
        assert twin.seed == 3
        assert len(twin.train_dataloader()) == 8


def test_wrapper_of_lightning_has_no_subclass():
    assert type(ReweightedDataModule(_models.Data(), half())) is ReweightedDataModule


@pytest.mark.parametrize(
    "strategy",
    [
        "auto",
        pytest.param(
            "ddp_fork",
            marks=[
                pytest.mark.distributed,
                pytest.mark.skipif(not dist.is_available(), reason="torch without distributed support"),
            ],
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_whole_job_works_with_plain_loaders(tmp_path, strategy):
    """61 validation samples become 62 on two processes, whose sampler belongs to the other namespace."""
    train, val = _models.datasets(val=61)
    callback = ParetoCallback(verbose=False)
    fitted = trainer(tmp_path, callback, strategy=strategy, devices=2 if strategy == "ddp_fork" else 1)
    loader = DataLoader(val, batch_size=50, sampler=list(range(61)))
    fitted.fit(Plain(), reweighted_dataloader(DataLoader(train, batch_size=32), half()), loader)
    assert sum(float(v) for name, v in fitted.callback_metrics.items() if "support" in name) == 61
    assert callback.verdict.support.sum() == 61


class Spoils(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        trainer.train_dataloader.dataset.spoilt = trainer.current_epoch == SPOILT


class Keeps(pl.callbacks.Checkpoint):
    """Notes the validations that it sees."""

    seen = 0

    def on_validation_end(self, trainer, pl_module):
        self.seen += not trainer.sanity_checking


def test_course_correction_keeps_checkpoints_of_the_other_namespace_out_of_the_rerun(tmp_path):
    torch.manual_seed(0)
    kept, correction = Keeps(), CourseCorrection(verbose=False)
    fitted = trainer(tmp_path, Spoils(), correction, kept, max_epochs=SPOILT + 2, enable_checkpointing=True)
    fitted.fit(Plain(), datamodule=Data(*spoilt_datasets(share=0.7)))
    assert len(correction.corrections) == 1
    assert kept.seen == SPOILT + 2, "each epoch is seen once"


@pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty")
def test_tuner_accepts_trainers_of_the_other_namespace(tmp_path):
    tuner = ParetoTuner(
        lambda: trainer(tmp_path, max_epochs=2), max_epochs_spent=6, dirpath=tmp_path / "tuner", verbose=False
    )
    result = tuner.fit(Plain(), Data())
    assert result.after.shape == (4,)
    assert (tmp_path / "tuner").is_dir()


def test_both_namespaces_are_recognised():
    module, other = Plain(), _models.Plain()
    assert is_a(module, lightning.LightningModule)
    assert is_a(other, lightning.LightningModule)
    assert not is_a(nn.Linear(1, 1), lightning.LightningModule)
    assert not is_a(Data(), lightning.LightningModule, nn.Module)
    assert counterpart(lightning.Trainer, module) is pl.Trainer
    assert counterpart(lightning.Trainer, other) is lightning.Trainer
    with pytest.raises(TypeError, match="expected a LightningDataModule"):
        ReweightedDataModule(module, half())
