"""Wrong data, models and options of searches. No step is trained."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_pareto import ParetoCallback, ParetoTuner, ReweightedDataModule
from tests.bad_input._case import Case
from tests.bad_input._fits import NAN, TRAIN, CountSteps, OnlyTraining, OnlyValidation, under_a_file
from tests.integration._models import Data, Plain, trainer


def tuner(ckpt_path=None, model=Plain, data=Data, factory=None, **options):
    """A case's call: a search in which no training step may begin."""

    def call(folder):
        count = CountSteps()

        def make():
            return trainer(folder, count, max_epochs=2, enable_checkpointing=True)

        path = ckpt_path(folder) if callable(ckpt_path) else ckpt_path
        try:
            search = ParetoTuner(factory or make, **{"dirpath": folder / "search", "verbose": False, **options})
            search.fit(model(), data(), path)
        finally:
            assert count.steps == 0, "training before the error"

    return call


class BringsValidation(Plain):
    def val_dataloader(self):
        return Data().val_dataloader()


class OneCycle(Plain):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=16)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def at_its_end(folder):
    fitted = trainer(folder, max_epochs=2)
    fitted.fit(OneCycle(), datamodule=Data())
    fitted.save_checkpoint(folder / "end.ckpt")
    return folder / "end.ckpt"


def unsafe(folder):
    """A checkpoint with an object that cannot be loaded safely."""
    path = at_its_end(folder)
    torch.save({**torch.load(path, weights_only=True), "extra": CountSteps()}, path)
    return path


def garbage(folder):
    (folder / "garbage.ckpt").write_bytes(b"no checkpoint")
    return folder / "garbage.ckpt"


CASES = [
    Case("search with a list of budgets", tuner(budget=[0.2]), ValueError, r"found \[0.2\]", "budget must be a share"),
    Case("search with a tolerance in points", tuner(tolerance=2), ValueError, "found 2", "Divide points by 100"),
    Case("search with a budget of NaN", tuner(budget=NAN), ValueError, "found nan", "budget must be a share"),
    Case("search in an unknown mode", tuner(mode="both"), ValueError, "found 'both'", "mode must be one of"),
    Case("search by magic", tuner(search="magic"), ValueError, "found 'magic'", "search must be one of"),
    Case("search with an unknown refit", tuner(refit="twice"), ValueError, "found 'twice'", "refit must be one of"),
    Case("search with a level of 1", tuner(level=1.0), ValueError, "found 1.0", r"level must be in \(0, 1\)"),
    Case("search with an epsilon of NaN", tuner(epsilon=NAN), ValueError, "found nan", "epsilon must be at least 0"),
    Case("search with a weight below 1", tuner(max_weight=0.5), ValueError, "0.5", "max_weight must be at least 1"),
    Case("search in a population of one", tuner(search="genetic", population=1), ValueError, "found 1", "at least 2"),
    Case("search with half a seed", tuner(seed=0.5), ValueError, "found 0.5", "whole number"),
    Case("search with a seed below 0", tuner(seed=-1), ValueError, "found -1", r"in \[0, 2\*\*32\)"),
    Case("search for half an epoch", tuner(max_epochs_spent=2.5), ValueError, "found 2.5", "a number of epochs"),
    Case("search with too few epochs", tuner(max_epochs_spent=2), ValueError, "max_epochs_spent=2 does not suffice", r"Use at least \d+, better"),
    Case("search without folds", tuner(callback=ParetoCallback(folds=1)), ValueError, "splits the validation set", "folds=8"),
    Case("search with validation but no scratch", tuner(include_validation=True, refit="epoch"), ValueError, "one more fit from scratch", 'refit="scratch"'),
    Case("search with a Trainer for a factory", lambda folder: ParetoTuner(trainer(folder)), TypeError, "found Trainer", "lambda: pl.Trainer"),
    Case("search below a file", lambda folder: tuner(dirpath=under_a_file(folder))(folder), OSError, "cannot be written to dirpath=.*file is not a folder", "Give another folder"),
    Case("search of a torch module", tuner(model=lambda: nn.Linear(2, 2)), TypeError, "takes a LightningModule", "found Linear"),
    Case("search on a loader", tuner(data=lambda: DataLoader(TRAIN)), TypeError, "found DataLoader", "from_datasets"),
    Case("search on weights", tuner(data=lambda: ReweightedDataModule(Data(), np.ones(240))), TypeError, "without weights", "reweighted.datamodule"),
    Case("search without validation", tuner(data=OnlyTraining), ValueError, "no validation set", r"val_dataloader\(\)"),
    Case("search without training data", tuner(data=OnlyValidation), TypeError, r"train_dataloader\(\) of the DataModule, but OnlyValidation has none", "move the one of the LightningModule"),
    Case("search with validation data of the module", tuner(data=OnlyTraining, model=BringsValidation, include_validation=True), TypeError, r"val_dataloader\(\) of the DataModule, but OnlyTraining has none", "move the one of the LightningModule"),
    Case("search for an unknown target", tuner(targets="cat"), ValueError, "unknown target 'cat'", "expected one of"),
    Case("search from no checkpoint", tuner("nowhere.ckpt"), FileNotFoundError, "no checkpoint at .*nowhere.ckpt", "save_checkpoint"),
    Case("search from garbage", tuner(garbage), ValueError, "not a complete Lightning checkpoint", "save_checkpoint"),
    Case("search from unsafe objects", tuner(unsafe, model=OneCycle), ValueError, "objects that cannot be loaded safely", "save_hyperparameters"),
    Case("search from the end of a schedule", tuner(at_its_end, model=OneCycle), ValueError, "is at step 16 of the 16", "Use a checkpoint of an earlier epoch"),
    Case("search from the end for epochs", tuner(at_its_end, model=OneCycle, refit="epoch"), ValueError, "OneCycleLR", "save_top_k=-1"),
]  # fmt: skip
