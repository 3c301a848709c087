"""Checks that a checkpoint can be read safely and that another epoch can follow it."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch


def epochs_seen(checkpoint: dict[str, Any]) -> int:
    """Number of epochs of training data behind a checkpoint, including one saved after its last batch."""
    loop = checkpoint["loops"]["fit_loop"]
    epoch, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    after_last_batch = epoch["started"] > epoch["processed"] and batches["is_last_batch"]
    return int(epoch["processed"]) + int(after_last_batch)


def check_can_continue(path: Path) -> None:
    """Refuse a checkpoint from which no further epoch can be trained.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not a Lightning checkpoint, holds objects that cannot be loaded safely, or is at the end of
            a schedule that cannot continue, such as OneCycleLR.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}: trainer.save_checkpoint(path) writes one")
    checkpoint = _read(path)
    epochs = epochs_seen(checkpoint)
    for schedule in checkpoint.get("lr_schedulers", []):
        total, done = schedule.get("total_steps"), schedule.get("last_epoch", 0)
        if isinstance(total, int) and done + done / max(epochs, 1) > total:
            raise ValueError(
                f"{path} is at step {done} of the {total} steps of its learning rate schedule (a OneCycleLR?), after "
                f"{epochs} epochs, but a search trains one more epoch from there. Use a checkpoint of an earlier epoch "
                "(ModelCheckpoint(save_top_k=-1) keeps them), or a Trainer with at least two epochs"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        epochs_seen(checkpoint)
    except Exception as error:  # a file can be broken in any way
        if isinstance(error, UnpicklingError) and "global" in str(error):
            raise ValueError(
                f"{path} holds objects that cannot be loaded safely: leave them out, save_hyperparameters(ignore=[…])"
            ) from error
        raise ValueError(
            f"{path} is not a complete Lightning checkpoint of a fit ({type(error).__name__}): "
            "trainer.save_checkpoint(path) writes one"
        ) from error
    return checkpoint
