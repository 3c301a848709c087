"""Around a fit of a search: where its chance comes from, and what Lightning says of it."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

import lightning.pytorch as pl
from lightning.pytorch.utilities.seed import isolate_rng


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Everything random in a trial comes from the seed, and nothing of it is left behind."""
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
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
    """Leave out what Lightning says of itself at every fit, and warnings that are meant for other uses."""
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


_NAMESPACES = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")

EXPECTED = (
    r".*callbacks used to create the checkpoint need to be provided",
    r"Checkpoint directory .* exists and is not empty",
    r"Experiment logs directory .* exists and is not empty",
    r".*smaller than the logging interval",
    r".*could not find the monitored key",
    r"The `?fit`? loop was restarted|.*resuming from a checkpoint that ended before the epoch ended",
)
"""Warnings of Lightning that every trial would repeat: each fit starts from a checkpoint of another one on purpose."""
