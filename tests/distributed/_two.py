"""Fits on two processes, and what each of them reports."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from lightning_pareto import ParetoCallback
from tests.integration._models import Plain, trainer


def two(tmp_path, *callbacks, strategy="ddp_fork", **options):
    return trainer(tmp_path, *callbacks, strategy=strategy, devices=2, **options)


def launched(folder, code):
    """Run a script that launches a second process of itself. Its argument is its own folder."""
    script = folder / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script, folder],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def untrained():
    """A model with a learning rate of zero, so any number of processes ends with the same one."""
    torch.manual_seed(0)
    return Plain(lr=0.0)


def describe(error):
    return f"{type(error).__name__}: {error}"


class AnalysisReport(Callback):
    """Writes down on each process at which weights another callback's analysis ran, or its error."""

    def __init__(self, folder, callback):
        self.folder, self.callback = folder, callback

    def on_train_end(self, trainer, pl_module):
        try:
            write(self.folder, trainer, self.callback.influence.metadata["checkpoint"])
        except RuntimeError as error:
            write(self.folder, trainer, describe(error.__cause__))


class ReportsFailedStart(ParetoCallback):
    """Writes down on each process the error of its check before the fit."""

    def __init__(self, folder, **options):
        super().__init__(**options)
        self.folder = folder

    def on_train_start(self, trainer, pl_module):
        try:
            super().on_train_start(trainer, pl_module)
        except Exception as error:
            write(self.folder, trainer, describe(error))
            end = time.monotonic() + 20  # the first process to end also ends the other
            while len(list(self.folder.glob("rank*.json"))) < 2 and time.monotonic() < end:
                time.sleep(0.01)
            raise


def write(folder, trainer, text):
    path = folder / f"rank{trainer.global_rank}"
    path.write_text(json.dumps(text))
    path.rename(path.with_suffix(".json"))


def read(folder):
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
