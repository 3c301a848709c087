"""The main job, shared by the examples: first fit, influence, verdict, weights, second fits, comparison.

Everything specific to `lightning_pareto` is in `run_seed`. The model and the data are an ordinary Lightning project.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset

from lightning_pareto import (
    ClasswiseComparison,
    InfluenceMatrix,
    ParetoCallback,
    ParetoVerdict,
    ReweightedDataModule,
    reweight,
)

FIRST, ORDINARY, JOINED, PARETO = "first fit", "ordinary", "train ∪ val", "Pareto"


class Classifier(pl.LightningModule):
    """An ordinary LightningModule around a network that returns logits."""

    def __init__(self, network: nn.Module, lr: float) -> None:
        super().__init__()
        self.network = network
        self.lr = lr

    def forward(self, x: Tensor) -> Any:
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self(x), y), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Images(pl.LightningDataModule):
    """An ordinary LightningDataModule over three datasets of (image, label)."""

    def __init__(self, train: Dataset[Any], val: Dataset[Any], batch_size: int) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.batch_size = batch_size

    def train_dataloader(self) -> "DataLoader[Any]":
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> "DataLoader[Any]":
        return DataLoader(self.val, batch_size=512)


@dataclass(frozen=True)
class Split:
    """The data of one seed.

    Attributes:
        train: images and given labels.
        val: images and labels.
        test: images and labels that no decision uses.
        flipped: which training labels are known to be wrong, (N,) bool.
        class_names: K names.
    """

    train: TensorDataset
    val: TensorDataset
    test: TensorDataset
    flipped: np.ndarray
    class_names: list[str]


@dataclass(frozen=True)
class Job:
    """The fits to run for every seed.

    Attributes:
        network: makes an untrained network.
        epochs: epochs of every fit.
        batch_size: batch size of every fit.
        lr: peak of the one-cycle schedule.
        budget: share of the training mass that the weights may move.
        trainer: more arguments of every Trainer.
    """

    network: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    lr: float
    budget: float
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SeedResult:
    """The results of one seed."""

    accuracy: dict[str, np.ndarray]  # arm -> (K,) on the test part
    verdict: ParetoVerdict
    auc: float


def flip_labels(labels: Tensor, share: float, classes: int, generator: torch.Generator) -> tuple[Tensor, np.ndarray]:
    """Replace a random share of the labels by another class, uniformly. Returns the labels and which were flipped."""
    flipped = torch.rand(len(labels), generator=generator) < share
    shift = torch.randint(1, classes, labels.shape, generator=generator)
    return torch.where(flipped, (labels + shift) % classes, labels), flipped.numpy()


class StopAfter(Callback):
    """Stops a fit after some epochs of its schedule."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def trainer_for(job: Job, folder: str, *callbacks: Callback) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=job.epochs,
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        **job.trainer,
    )


def fit(job: Job, datamodule: pl.LightningDataModule, pareto: ParetoCallback, seed: int) -> tuple[Classifier, int]:
    """Fit from scratch. Returns the model at its best epoch by validation, and that epoch."""
    pl.seed_everything(seed, verbose=False)
    model = Classifier(job.network(), job.lr)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_accuracy_macro", mode="max")
        trainer = trainer_for(job, folder, pareto, best)
        trainer.fit(model, datamodule=datamodule)
        checkpoint = torch.load(best.best_model_path, weights_only=True)
        trainer.strategy.barrier()  # the first process that leaves removes the folder
    model.load_state_dict(checkpoint["state_dict"])
    return model, int(checkpoint["epoch"]) + 1


def fit_joined(job: Job, split: Split, seed: int, epochs: int) -> Classifier:
    """The rival: an ordinary fit on training and validation data, for the epochs that validation chose before."""
    pl.seed_everything(seed, verbose=False)
    model = Classifier(job.network(), job.lr)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(job, folder, StopAfter(epochs))
        joined = Images(ConcatDataset([split.train, split.val]), split.val, job.batch_size)
        trainer.fit(model, joined.train_dataloader())
    return model


def run_seed(job: Job, split: Split, seed: int, show: bool) -> SeedResult:
    """Run the first fit with the callback, then the second fits from the same initial weights."""
    datamodule = Images(split.train, split.val, job.batch_size)
    pareto = ParetoCallback(class_names=split.class_names, budget=job.budget, verbose=show)
    with tempfile.TemporaryDirectory() as folder:
        pareto.dirpath = Path(folder)
        first, _ = fit(job, datamodule, pareto, seed)
    weights = reweight(pareto.influence)

    second = 1000 + seed
    ordinary, epochs = fit(job, datamodule, ParetoCallback(analyse=False), second)
    joined = fit_joined(job, split, second, epochs)
    better, _ = fit(job, ReweightedDataModule(datamodule, weights, seed=second), ParetoCallback(analyse=False), second)

    models = {FIRST: first, ORDINARY: ordinary, JOINED: joined, PARETO: better}
    accuracy = {arm: classwise_accuracy(model, split.test, len(split.class_names)) for arm, model in models.items()}
    return SeedResult(accuracy, pareto.verdict, auc(pareto.influence, split.flipped))


@torch.no_grad()
def classwise_accuracy(model: nn.Module, data: TensorDataset, classes: int) -> np.ndarray:
    """Accuracy of every class, (K,)."""
    model.eval()
    x, y = data.tensors
    predicted = torch.cat([model(part).argmax(dim=1) for part in x.split(1000)])
    return np.array([(predicted[y == k] == k).double().mean().item() for k in range(classes)])


def auc(influence: InfluenceMatrix, flipped: np.ndarray) -> float:
    """How well the lowest total influence finds the flipped labels. NaN if there are none."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(flipped, -influence.total())) if flipped.any() else float("nan")


@rank_zero_only
def say(text: str) -> None:
    print(text, flush=True)


def quiet() -> None:
    """Silence Lightning's own messages."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for message in (".*does not have many workers", ".*have no `val_dataloader`", ".*LeafSpec.* is deprecated"):
        warnings.filterwarnings("ignore", message=message)


def run(job: Job, make_split: Callable[[int], Split], seeds: range) -> ClasswiseComparison:
    """Run every seed and print its results."""
    results = []
    for seed in seeds:
        say(f"seed {seed}: four fits and the influence of every training sample …")
        split = make_split(seed)
        result = run_seed(job, split, seed, show=seed == seeds[0])
        results.append(result)
        means = ", ".join(f"{arm} {100 * values.mean():.1f}" for arm, values in result.accuracy.items())
        say(f"seed {seed}: improvable {result.verdict.answer}; flipped labels found with AUC {result.auc:.3f}; {means}")
    accuracy = {arm: np.stack([result.accuracy[arm] for result in results]) for arm in results[0].accuracy}
    comparison = ClasswiseComparison(accuracy, split.class_names, baseline=ORDINARY)
    say(f"\n{comparison}\n")
    return comparison
