"""Many rounds of fit, verdict and weighted fit in one process: what stays behind?

    pip install lightning_pareto
    python examples/benchmarks/soak.py [--rounds 100]

Every round fits a small model with `ParetoCallback`, checks, solves for weights, and fits again on them, each time with
a worker process for the training data; the first and every fifth round are a fit under `CourseCorrection` and a whole
search of `ParetoTuner` as well. After every round it counts hooks on the modules, open files, threads, child
processes, tensors that Python still knows, and the resident memory. The program fails if one of them grows; of memory,
which the allocators of Python and torch do not always give back, by more than a tenth of a MiB a round over the second
half.
"""

import argparse
import gc
import logging
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import astuple, dataclass, fields
from itertools import chain
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from influence_memory import resident
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_pareto import (
    CourseCorrection,
    ParetoCallback,
    ParetoTuner,
    ReweightedDataModule,
    check_pareto,
    reweight,
)
from lightning_pareto.data.synthetic import gaussian_classes

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
WARMUP = 2  # rounds after which everything that is loaded lazily is there
SEARCHED = 5  # rounds from one search to the next
GROWTH = 0.1  # of the memory in MiB a round that counts as none
LONG = 20  # rounds from which on the memory is judged


@dataclass(frozen=True)
class Left:
    """What there is in the process."""

    hooks: int
    files: int
    threads: int
    children: int
    tensors: int
    memory: float  # MiB


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Data(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.train = gaussian_classes(240, noise=0.3, seed=1).dataset()
        self.val = gaussian_classes(120, seed=2).dataset()

    def train_dataloader(self) -> "DataLoader[tuple[Tensor, ...]]":
        return DataLoader(self.train, batch_size=32, shuffle=True, num_workers=1)

    def val_dataloader(self) -> "DataLoader[tuple[Tensor, ...]]":
        return DataLoader(self.val, batch_size=60)


def trainer(folder: str, *callbacks: pl.Callback, max_epochs: int = 2) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


def once(folder: str, module: Classifier, data: Data) -> None:
    """One round: a fit with its analysis, a verdict, weights, a fit on them."""
    callback = ParetoCallback(dirpath=folder, verbose=False)
    trainer(folder, callback).fit(module, datamodule=data)
    assert np.isfinite(check_pareto(callback.influence).headroom)
    weighted = ReweightedDataModule(data, reweight(callback.influence))
    trainer(folder, ParetoCallback(analyse=False)).fit(module, datamodule=weighted)


def searched(folder: str, module: Classifier, data: Data) -> int:
    """A search for a better fit, and a fit of which epochs are taken again: how many."""
    correction = CourseCorrection(threshold=0.001, level=0.9, warmup_epochs=1, dirpath=folder, verbose=False)
    trainer(folder, correction, max_epochs=6).fit(Classifier(), datamodule=data)
    with tempfile.TemporaryDirectory() as trials:
        tuner = ParetoTuner(lambda: trainer(folder), include_validation=True, dirpath=trials, verbose=False)
        tuner.fit(module, data)
    return len(correction.corrections)


def hooks(module: nn.Module) -> int:
    """Hooks on this module and its parts, and those on all modules."""
    own = sum(len(getattr(part, name)) for part in module.modules() for name in HOOKS)
    return own + sum(len(getattr(torch.nn.modules.module, f"_global{name}", ())) for name in HOOKS)


def children() -> int:
    """Child processes of this one, those that are not waited for among them."""
    lists = (path.read_text().split() for path in Path("/proc/self/task").glob("*/children"))
    return len(list(chain.from_iterable(lists)))


def left(module: nn.Module) -> Left:
    """Count what there is now, after a moment for the threads of workers that have ended."""
    gc.collect()
    moments = iter(range(100))
    while threading.active_count() > 1 and next(moments, None) is not None:
        time.sleep(0.1)
    return Left(
        hooks(module),
        len(list(Path("/proc/self/fd").iterdir())),
        threading.active_count(),
        children(),
        sum(isinstance(each, Tensor) for each in gc.get_objects()),
        resident() / 2**20,
    )


def growth(memory: list[float]) -> float:
    """MiB a round over the second half of the rounds: the slope of a line through them."""
    half = memory[len(memory) // 2 :]
    return float(np.polyfit(np.arange(len(half)), half, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    pl.seed_everything(0, verbose=False)
    names = [field.name for field in fields(Left)]
    print(f"{'round':>6}" + "".join(f"{name:>10}" for name in names))
    module, data, found, again = Classifier(), Data(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, rounds + 1):
            if number % SEARCHED == 1:
                again += searched(folder, module, data)
            once(folder, module, data)
            found.append(left(module))
            if number <= WARMUP or number == rounds or number % 10 == 0:
                print(f"{number:>6}" + "".join(f"{value:>10.4g}" for value in astuple(found[-1])), flush=True)
    more = [name for name in names[:-1] if getattr(found[-1], name) > getattr(found[min(WARMUP, rounds) - 1], name)]
    assert again, "no epoch was taken again"
    slope = growth([each.memory for each in found])
    if rounds >= LONG:
        print(f"memory grows by {slope:.3f} MiB a round")
        more += ["memory"] if slope > GROWTH else []
    sys.exit(f"what grows: {', '.join(more)}" if more else 0)


if __name__ == "__main__":
    main()
