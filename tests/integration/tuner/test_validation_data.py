"""Validation samples that join the training data."""

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto.integration.tuner.validation_data import joined


def rows(loader):
    return torch.cat([batch[0] for batch in loader]).tolist()


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.arange(10)), batch_size=4)

    def val_dataloader(self):
        return DataLoader(TensorDataset(torch.arange(100, 106)), batch_size=4)


def test_joined_samples_leave_the_validation_data():
    data = Data()
    chosen = np.array([True, False, True, False, False, False])
    twin = joined(data, 0, chosen)
    loader = twin.train_dataloader()
    first, second = rows(loader), rows(loader)
    assert sorted(first) == sorted(second) == [*range(10), 100, 102]
    assert first != second, "shuffled"
    assert rows(twin.val_dataloader()) == [101, 103, 104, 105]
    assert rows(data.val_dataloader()) == list(range(100, 106)), "that of the user is unchanged"
    everything = joined(data, 0, np.ones(6, dtype=bool))
    assert len(rows(everything.train_dataloader())) == 16
    assert rows(everything.val_dataloader()) == list(range(100, 106))
