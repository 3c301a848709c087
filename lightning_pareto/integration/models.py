"""Which weights of the model influence is taken at."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint


def best_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Path of the best checkpoint by a monitored quantity, or None if nothing is monitored."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return Path(callback.best_model_path)
    return None


@contextlib.contextmanager
def weights_of(module: pl.LightningModule, checkpoint: Path | None) -> Iterator[Path | None]:
    """Give the module the weights of ``checkpoint`` for a while, and its own back afterwards.

    Args:
        module: the trained module.
        checkpoint: a Lightning checkpoint, or None to leave the module as it is.

    Yields:
        The checkpoint whose weights are in force; None for the module's own, also where the file holds more than
        plain weights and so cannot be read safely (with a warning).
    """
    state = None if checkpoint is None else _read(checkpoint, module.device)
    if state is None:
        yield None
        return
    own = {name: value.detach().clone() for name, value in module.state_dict().items()}
    try:
        module.load_state_dict(state)
        yield checkpoint
    finally:
        module.load_state_dict(own)


def _read(checkpoint: Path, device: torch.device) -> dict[str, torch.Tensor] | None:
    try:
        state: dict[str, torch.Tensor] = torch.load(checkpoint, map_location=device, weights_only=True)["state_dict"]
    except UnpicklingError as error:
        warnings.warn(
            f"the best checkpoint {checkpoint} holds objects that are not loaded safely ({str(error)[:120]}…): "
            "influence is taken at the last weights instead. Keep such objects out of save_hyperparameters "
            "(ignore=[…]), or say ParetoCallback(checkpoint='last')",
            stacklevel=2,
        )
        return None
    return state
