"""Whether a checkpoint can be read safely, and whether an epoch can follow it."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch


def epochs_seen(checkpoint: dict[str, Any]) -> int:
    """Epochs of training data that a checkpoint has behind it, one that was saved after the last batch among them."""
    loop = checkpoint["loops"]["fit_loop"]
    epoch, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    seen_whole = epoch["started"] > epoch["processed"] and batches["is_last_batch"]
    return int(epoch["processed"]) + int(seen_whole)


def check_goes_on(path: Path) -> None:
    """Refuse a checkpoint that no further epoch can be trained from.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no Lightning checkpoint, holds objects that are not loaded safely, or stands at the end of
            a schedule that ends for good, as OneCycleLR does.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}: trainer.save_checkpoint(path) writes one")
    checkpoint = _read(path)
    epochs = epochs_seen(checkpoint)
    for schedule in checkpoint.get("lr_schedulers", []):
        total, done = schedule.get("total_steps"), schedule.get("last_epoch", 0)
        if isinstance(total, int) and done + done / max(epochs, 1) > total:
            raise ValueError(
                f"{path} stands at step {done} of the {total} that its learning rate schedule has (a OneCycleLR?), "
                f"after {epochs} epochs, and a search tries weights in a further epoch from there. Give a checkpoint "
                "of an earlier epoch (ModelCheckpoint(save_top_k=-1) keeps them), or a Trainer of two epochs at least"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        epochs_seen(checkpoint)
    except Exception as error:  # a file can be broken in any way
        if isinstance(error, UnpicklingError) and "global" in str(error):
            raise ValueError(
                f"{path} holds objects that are not loaded safely: keep them out of save_hyperparameters(ignore=[…])"
            ) from error
        raise ValueError(
            f"{path} is not a whole Lightning checkpoint of a fit ({type(error).__name__}): "
            "trainer.save_checkpoint(path) writes one"
        ) from error
    return checkpoint
