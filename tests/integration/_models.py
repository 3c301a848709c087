"""Small Lightning projects like those of users."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_pareto.datasets import Rows, gaussian_classes

CLASSES = 4

ACCELERATOR = "cpu"
"""The tests in ``tests/gpu`` set it to ``"gpu"``."""


class Plain(pl.LightningModule):
    """(x, y) batches, logits from forward, and no knowledge of lightning_pareto."""

    def __init__(self, lr=0.05):
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, CLASSES))

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


class Inner(Plain):
    """Never calls its own forward, so the callback finds no logits to listen for."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self.network(x), y), sync_dist=True)


class Failing(Plain):
    """Fails in the second batch of a validation epoch."""

    def validation_step(self, batch, batch_idx):
        if batch_idx == 1:
            raise RuntimeError("no second batch")
        super().validation_step(batch, batch_idx)


class Output:
    def __init__(self, logits, loss):
        self.logits = logits
        self.loss = loss


class DictBatches(Plain):
    """As with transformers: batches are dicts, and the output has logits and perhaps a loss."""

    def forward(self, features, labels=None):
        logits = self.network(features)
        return Output(logits, None if labels is None else nn.functional.cross_entropy(logits, labels))

    def training_step(self, batch, batch_idx):
        return self(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(**batch).loss, sync_dist=True)


class Dicts(Dataset):
    def __init__(self, data):
        self.x, self.y = data.tensors

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return {"features": self.x[i], "labels": self.y[i]}


class Named(Rows):
    classes = ("east", "north", "west", "south")


def datasets(noise=0.3, train=240, val=120):
    return (
        Named(*gaussian_classes(train, noise=noise, seed=1, distance=3).dataset().tensors),
        Named(*gaussian_classes(val, seed=2, distance=3).dataset().tensors),
    )


class Data(pl.LightningDataModule):
    """An ordinary DataModule."""

    def __init__(self, train=None, val=None, batch_size=32, **options):
        super().__init__()
        default = datasets()
        self.train, self.val = train or default[0], val or default[1]
        self.options = {"batch_size": batch_size, **options}
        self.val_batch = max(50, len(self.val) // 6)

    def train_dataloader(self):
        return DataLoader(self.train, shuffle=True, **self.options)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.val_batch)


class Over(Callback):
    """False during training and true after it, for callbacks that come later in the list."""

    def __init__(self):
        self.over = False

    def __bool__(self):
        return self.over

    def on_train_end(self, trainer, pl_module):
        self.over = True


def trainer(tmp_path, *callbacks, **options):
    return pl.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": ACCELERATOR,
            "devices": 1,
            "default_root_dir": tmp_path,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": list(callbacks),
            **options,
        }
    )
