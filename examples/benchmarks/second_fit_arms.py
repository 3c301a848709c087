"""The second fits that `second_fit.py` compares."""

import functools
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_pareto import ParetoCallback, ParetoTuner, ReweightedDataModule, estimate_influence

sys.path.append(str(Path(__file__).parents[1]))  # the other examples
from main_job import Classifier, Images, Job, Split, fit_joined, trainer_for
from second_fit_cases import Case

ORDINARY, JOINED, SIX = "ordinary", "train ∪ val", "best of six"
PARETO, BOTH, PAPER = "ParetoTuner", "ParetoTuner + val", "PARETO-LP-GA"
SEARCH = 6
FITS = {SIX: SEARCH}  # complete fits of an arm; 1 if it is not listed. Searches count their epochs themselves


class Focal(Classifier):
    """Focal loss with γ = 2."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return ((1 - (-loss).exp()) ** 2 * loss).mean()


class GroupDro(Classifier):
    """Distributionally robust optimisation over the classes (Sagawa et al. 2020, arXiv:1911.08731), step 0.01."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        logits, y = self(batch[0]), batch[1]
        loss, classes = F.cross_entropy(logits, y, reduction="none"), logits.shape[1]
        counts = torch.bincount(y, minlength=classes)
        means = torch.zeros(classes).index_add(0, y, loss) / counts.clamp(min=1)
        if not hasattr(self, "shares"):
            self.shares = torch.full((classes,), 1 / classes)
        self.shares = self.shares * (0.01 * means.detach()).exp()
        self.shares = self.shares / self.shares.sum()
        return (self.shares * means).sum()


def fit(model: Classifier, job: Job, data: pl.LightningDataModule, seed: int) -> tuple[Classifier, float, int]:
    """Fit a model. Returns it at its best epoch by validation, its mean validation accuracy there, and that epoch."""
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_accuracy_macro", mode="max", save_on_train_epoch_end=True)
        trainer = trainer_for(job, folder, ParetoCallback(analyse=False), best)
        pl.seed_everything(seed, verbose=False, workers=True)
        trainer.fit(model, datamodule=data)
        checkpoint = torch.load(best.best_model_path, weights_only=True)
        score = best.best_model_score
    model.load_state_dict(checkpoint["state_dict"])
    return model, float("nan") if score is None else float(score), int(checkpoint["epoch"]) + 1


@dataclass(frozen=True)
class Seed:
    """One seed of a case, with the data and the ordinary fit that several arms share."""

    case: Case
    number: int

    @property
    def seed(self) -> int:
        """Seed of all fits."""
        return 1000 + self.number

    @functools.cached_property
    def split(self) -> Split:
        return self.case.split(self.number)

    @functools.cached_property
    def data(self) -> Images:
        return Images(self.split.train, self.split.val, self.case.job.batch_size)

    @functools.cached_property
    def ordinary(self) -> tuple[Classifier, float, int]:
        return self.fit()

    def start(self, kind: type[Classifier] = Classifier, seed: int | None = None) -> Classifier:
        pl.seed_everything(self.seed if seed is None else seed, verbose=False)
        return kind(self.case.job.network(), self.case.job.lr)

    def fit(
        self, kind: type[Classifier] = Classifier, weights: np.ndarray | None = None, seed: int | None = None
    ) -> tuple[Classifier, float, int]:
        """Fit from scratch. Returns the model at its best epoch, its score and that epoch."""
        seed = self.seed if seed is None else seed
        data = self.data if weights is None else ReweightedDataModule(self.data, weights, seed=seed)
        return fit(self.start(kind, seed), self.case.job, data, seed)


Arm = tuple[Classifier, dict[str, Any]]


def ordinary(seed: Seed) -> Arm:
    return seed.ordinary[0], {}


def best_of_six(seed: Seed) -> Arm:
    fits = [seed.ordinary, *(seed.fit(seed=10_000 * i + seed.seed) for i in range(1, SEARCH))]
    return max(fits, key=lambda fitted: fitted[1])[0], {}


def joined(seed: Seed) -> Arm:
    return fit_joined(seed.case.job, seed.split, seed.seed, seed.ordinary[2]), {}


def balanced(seed: Seed) -> Arm:
    y = seed.split.train.tensors[1].numpy()
    counts = np.bincount(y, minlength=len(seed.split.class_names)).clip(min=1)
    return seed.fit(weights=len(y) / len(np.unique(y)) / counts[y])[0], {}


def without_high_loss(seed: Seed) -> Arm:
    return without_harmful(seed, losses(seed.ordinary[0], seed.split))


def without_low_influence(seed: Seed) -> Arm:
    model, train, val = seed.ordinary[0], seed.split.train, seed.split.val
    influence = estimate_influence(model, DataLoader(train, 128), DataLoader(val, 512))
    return without_harmful(seed, -influence.total())


def without_harmful(seed: Seed, harm: np.ndarray) -> Arm:
    """Leave out the budget's share of the samples, the most harmful ones, and keep the length of an epoch."""
    weights = np.ones(len(harm))
    weights[np.argsort(-harm)[: int(seed.case.job.budget * len(harm))]] = 0
    return seed.fit(weights=weights * len(harm) / weights.sum())[0], {}


def focal(seed: Seed) -> Arm:
    return seed.fit(Focal)[0], {}


def group_dro(seed: Seed) -> Arm:
    return seed.fit(GroupDro)[0], {}


def search_arm(**options: Any) -> Callable[[Seed], Arm]:
    """An arm that runs a search."""

    def arm(seed: Seed) -> Arm:
        model, job = seed.start(), seed.case.job
        callback = ParetoCallback(class_names=seed.split.class_names, verbose=False, budget=job.budget)
        with tempfile.TemporaryDirectory() as folder:
            tuner = ParetoTuner(
                lambda: trainer_for(job, folder),
                dirpath=folder,
                seed=seed.seed,
                callback=callback,
                verbose=False,
                **options,
            )
            result = tuner.fit(model, seed.data)
        assert tuner.verdict is not None
        return model, {
            "accepted": result.accepted,
            "epochs": result.epochs_spent,
            "verdict": tuner.verdict.answer,
            "gain": [result.gain, result.gain_error],
            "reason": result.reason,
            "attempts": [(a.name, a.mean, a.worst, int(a.harmed.sum()), a.returned) for a in result.attempts],
        }

    return arm


ARMS: dict[str, Callable[[Seed], Arm]] = {
    ORDINARY: ordinary,
    SIX: best_of_six,
    JOINED: joined,
    PARETO: search_arm(),
    BOTH: search_arm(include_validation=True),
    PAPER: search_arm(search="genetic"),
    "class-balanced": balanced,
    "without high loss": without_high_loss,
    "without low influence": without_low_influence,
    "focal loss": focal,
    "GroupDRO": group_dro,
}


@torch.no_grad()
def losses(model: Classifier, split: Split) -> np.ndarray:
    """Loss of each training sample, (N,)."""
    model.eval()
    x, y = split.train.tensors
    parts = [F.cross_entropy(model(a), b, reduction="none") for a, b in zip(x.split(1000), y.split(1000), strict=True)]
    return np.asarray(torch.cat(parts))
