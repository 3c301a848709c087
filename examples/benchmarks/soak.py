"""Do many fits, verdicts and weighted fits in one process leave anything behind?

    pip install lightning_pareto
    python examples/benchmarks/soak.py [--rounds 100]

Each round fits a small model with `ParetoCallback`, checks the influence, solves for weights and fits again with them.
The training data are loaded by a worker process. The first round and every fifth one after it also run a fit with
`CourseCorrection` and a complete search by `ParetoTuner`.

After each round, the script counts hooks on the modules, open files, threads, child processes and the tensors that
Python still tracks, and reads the resident memory. It fails if one of the counts grows. The allocators of Python and
torch do not always return memory, so memory may grow by up to a tenth of a MiB per round over the second half.
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
from lightning_pareto.datasets import gaussian_classes

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
WARMUP = 2  # rounds after which everything is loaded that is loaded lazily
ROUNDS_PER_SEARCH = 5
MAX_GROWTH = 0.1  # of the memory, in MiB per round
MIN_ROUNDS = 20  # fewer rounds do not show whether memory grows


@dataclass(frozen=True)
class Resources:
    """What the process holds."""

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


def fit_twice(folder: str, module: Classifier, data: Data) -> None:
    """A fit with its analysis, a verdict, weights, and a fit with them."""
    callback = ParetoCallback(dirpath=folder, verbose=False)
    trainer(folder, callback).fit(module, datamodule=data)
    assert np.isfinite(check_pareto(callback.influence).headroom)
    weighted = ReweightedDataModule(data, reweight(callback.influence))
    trainer(folder, ParetoCallback(analyse=False)).fit(module, datamodule=weighted)


def correct_and_search(folder: str, module: Classifier, data: Data) -> int:
    """A fit that reruns epochs, and a search for a better fit. Returns the number of rerun epochs."""
    correction = CourseCorrection(threshold=0.001, level=0.9, warmup_epochs=1, dirpath=folder, verbose=False)
    trainer(folder, correction, max_epochs=6).fit(Classifier(), datamodule=data)
    with tempfile.TemporaryDirectory() as trials:
        tuner = ParetoTuner(lambda: trainer(folder), include_validation=True, dirpath=trials, verbose=False)
        tuner.fit(module, data)
    return len(correction.corrections)


def hooks(module: nn.Module) -> int:
    """Number of hooks on this module and its submodules, and of global hooks."""
    own = sum(len(getattr(part, name)) for part in module.modules() for name in HOOKS)
    return own + sum(len(getattr(torch.nn.modules.module, f"_global{name}", ())) for name in HOOKS)


def children() -> int:
    """Number of child processes, including zombies."""
    return sum(len(path.read_text().split()) for path in Path("/proc/self/task").glob("*/children"))


def count_resources(module: nn.Module) -> Resources:
    """Count the resources, after waiting up to 10 seconds for the threads of finished workers to end."""
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    return Resources(
        hooks(module),
        len(list(Path("/proc/self/fd").iterdir())),
        threading.active_count(),
        children(),
        sum(isinstance(each, Tensor) for each in gc.get_objects()),
        resident() / 2**20,
    )


def growth(memory: list[float]) -> float:
    """Slope of a line through the second half of the rounds, in MiB per round."""
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
    names = [field.name for field in fields(Resources)]
    print(f"{'round':>6}" + "".join(f"{name:>10}" for name in names))
    module, data, history, reruns = Classifier(), Data(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, rounds + 1):
            if number % ROUNDS_PER_SEARCH == 1:
                reruns += correct_and_search(folder, module, data)
            fit_twice(folder, module, data)
            history.append(count_resources(module))
            if number <= WARMUP or number == rounds or number % 10 == 0:
                print(f"{number:>6}" + "".join(f"{value:>10.4g}" for value in astuple(history[-1])), flush=True)
    assert reruns, "no epoch was rerun"
    first, last = history[min(WARMUP, rounds) - 1], history[-1]
    grown = [name for name in names if name != "memory" and getattr(last, name) > getattr(first, name)]
    if rounds >= MIN_ROUNDS:
        slope = growth([resources.memory for resources in history])
        print(f"memory grows by {slope:.3f} MiB per round")
        grown += ["memory"] if slope > MAX_GROWTH else []
    sys.exit(f"growing: {', '.join(grown)}" if grown else 0)


if __name__ == "__main__":
    main()
