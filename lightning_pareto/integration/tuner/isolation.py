"""Isolates a trial: its random numbers come from the seed, and Lightning's routine messages are silenced."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

import lightning.pytorch as pl
from lightning.pytorch.utilities.seed import isolate_rng

_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")

_NAMESPACES = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")

EXPECTED = (
    r".*callbacks used to create the checkpoint need to be provided",
    r"Checkpoint directory .* exists and is not empty",
    r"Experiment logs directory .* exists and is not empty",
    r".*smaller than the logging interval",
    r".*could not find the monitored key",
    r"The `?fit`? loop was restarted|.*resuming from a checkpoint that ended before the epoch ended",
)
"""Warnings of Lightning that every trial would repeat, since it starts from a checkpoint of another fit on purpose."""


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all random numbers, and restore random states and environment afterwards."""
    before = {name: os.environ.get(name) for name in _SEED_VARIABLES}
    with isolate_rng():
        pl.seed_everything(seed, workers=True, verbose=False)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's info messages and the warnings that are meant for other uses."""
    loggers = [logging.getLogger(name) for name in _NAMESPACES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
