"""A project with one epoch in which most labels of a class are wrong."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, Dataset

from tests.integration._models import Named, datasets

SPOILT = 3


class Switching(Dataset):
    """Returns other labels while ``spoilt``."""

    classes = Named.classes

    def __init__(self, inputs, labels, others):
        self.inputs, self.labels, self.others = inputs, labels, others
        self.spoilt = False

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.inputs[i], (self.others if self.spoilt else self.labels)[i]


def spoilt_datasets(share=0.8, noise=0.0):
    """Training data in which a share of the first class has the label of the second while spoilt."""
    train, val = datasets(noise=noise, train=600, val=400)
    x, y = train.tensors
    chosen = (y == 0) & (torch.rand(len(y), generator=torch.Generator().manual_seed(0)) < share)
    return Switching(x, y, torch.where(chosen, 1, y)), val


class Spoils(Callback):
    """Spoils the labels of one epoch."""

    def __init__(self, epoch=SPOILT):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        trainer.train_dataloader.dataset.spoilt = trainer.current_epoch == self.epoch


class SpoiltData(pl.LightningDataModule):
    def __init__(self, share=0.8, noise=0.0, shuffle_val=False, **options):
        super().__init__()
        self.train, self.val = spoilt_datasets(share, noise)
        self.options = {"batch_size": 32, "shuffle": True, **options}
        self.shuffle_val = shuffle_val

    def train_dataloader(self):
        return DataLoader(self.train, **self.options)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=200, shuffle=self.shuffle_val)
