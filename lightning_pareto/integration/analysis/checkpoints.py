"""The model weights at which influence is computed."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_pareto.display.terminal import printable
from lightning_pareto.display.warning import warn
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.integration.trainer.namespaces import is_a
from lightning_pareto.integration.trainer.processes import rank_zero_warn

Checkpoint = Literal["best", "last", "kept"] | Sequence[str | Path]
"""Which weights: the best or all of those kept by a monitoring ModelCheckpoint, the last, or a list of files."""


def check_checkpoint(which: Any) -> None:
    """Raise a ValueError for anything but a choice of weights."""
    if isinstance(which, str) and which in ("best", "last", "kept"):
        return
    if isinstance(which, str) or not isinstance(which, Sequence) or not which:
        raise ValueError(f"checkpoint must be 'best', 'last', 'kept' or a list of checkpoint files, found {which!r}")


def monitoring_checkpoint(trainer: pl.Trainer) -> ModelCheckpoint | None:
    """The first callback that keeps the best weights by a monitored quantity; None if there is none."""
    for callback in trainer.checkpoint_callbacks:
        if is_a(callback, ModelCheckpoint) and callback.monitor:
            return callback
    return None


def checkpoints_of_earlier_fits(trainer: pl.Trainer) -> dict[str, int | None]:
    """When each file was written that the monitoring callback keeps at the start of a fit, by path.

    A fit from a checkpoint, or one that goes on where the trainer has stopped, continues the fit that they are of.
    """
    callback = monitoring_checkpoint(trainer)
    if callback is None or trainer.ckpt_path or trainer.current_epoch:
        return {}
    return {path: _written_at(path) for path in {callback.best_model_path, *callback.best_k_models} if path}


def _written_at(path: str) -> int | None:
    return Path(path).stat().st_mtime_ns if Path(path).is_file() else None


def checkpoints(
    trainer: pl.Trainer, which: Checkpoint, earlier: Mapping[str, int | None] | None = None
) -> list[str | None]:
    """Paths of the chosen checkpoints as rank zero knows them; ``[None]`` for the last weights.

    A collective operation: without ``sync_dist`` each process may monitor a value of its own.

    Args:
        trainer: after its fit.
        which: the choice. ``"best"`` and ``"kept"`` refer to the first ModelCheckpoint that monitors something.
        earlier: what :func:`checkpoints_of_earlier_fits` found at the start of the fit. These are left out.
    """
    callback = monitoring_checkpoint(trainer)
    if which == "kept" and callback is None:
        rank_zero_warn(
            "checkpoint='kept' needs a ModelCheckpoint that monitors something, but there is none. Influence is "
            "computed at the last weights. For example: ModelCheckpoint(monitor='val_accuracy_macro', mode='max', "
            "save_top_k=4)"
        )
    paths: list[str] = []
    if not isinstance(which, str):
        paths = [str(path) for path in which]
    elif callback is not None and which == "best":
        paths = [callback.best_model_path]
    elif callback is not None and which == "kept":
        paths = sorted(callback.best_k_models)
    known = earlier if earlier and isinstance(which, str) else {}
    others = [path for path in paths if path in known and known[path] == _written_at(path)]
    if others:
        rank_zero_warn(
            f"{type(callback).__name__} holds {Path(others[0]).name} from an earlier fit, whose weights are not those "
            "of this model: influence is computed without it, at the last weights if there is no other. Create a new "
            "ModelCheckpoint for every fit"
        )
        paths = [path for path in paths if path not in others]
    return [path for path in trainer.strategy.broadcast(paths) if path] or [None]


@contextlib.contextmanager
def weights_of(
    module: pl.LightningModule, checkpoint: str | None, shard: Shard, required: bool = False
) -> Iterator[str | None]:
    """Load the weights of ``checkpoint`` into the module for a while, and restore its own afterwards.

    Args:
        module: the trained module.
        checkpoint: a Lightning checkpoint or a saved ``state_dict()``, the same on all processes; None to leave the
            module as it is.
        shard: this process. Every process has to call it.
        required: raise a ValueError if any process cannot read the file.

    Yields:
        The checkpoint whose weights are loaded; None for the module's own. If one process cannot read the file, or the
        file holds more than plain weights and so cannot be read safely, all processes keep their own weights and warn.
    """
    if checkpoint is None:
        yield None
        return
    with shard.agreement("copy of the last weights"):
        own = copy.deepcopy(module.state_dict())
    try:
        used = _load(module, checkpoint, shard, required)
        if used is None:
            module.load_state_dict(own, strict=False)
        yield used
    finally:
        module.load_state_dict(own, strict=False)


def _load(module: pl.LightningModule, checkpoint: str, shard: Shard, required: bool) -> str | None:
    """Load the checkpoint and return it; None if any process failed, which may then hold a mixture of weights."""
    reason: Exception | None = None
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state = saved.get("state_dict", saved)  # without one, the file itself may be a state_dict
        module.load_state_dict(state, strict=module.strict_loading or state is saved)
    except Exception as error:  # a file can be broken in any way, and the last weights serve as well
        reason = error
    if shard.all(reason is None):
        return checkpoint
    text = " ".join(str(reason).split())
    if isinstance(reason, UnpicklingError) and "Unsupported operand" not in text:  # which is no pickle at all
        advice = "It holds objects that cannot be loaded safely: leave them out, save_hyperparameters(ignore=[…])"
    else:
        advice = "It must be a checkpoint or a state_dict() of this module, as a local file on every machine"
    found = "another process could not read it"
    if reason is not None:  # torch uses bold letters and lines of its own
        found = f"{type(reason).__name__}: {printable(text.rpartition('WeightsUnpickler error: ')[2], 120)}"
    if required:
        raise ValueError(f"the checkpoint {checkpoint} cannot be loaded ({found}). {advice}")
    warn(
        f"the checkpoint {checkpoint} cannot be loaded ({found}): influence is computed at the last weights instead. "
        f"{advice}, or choose ParetoCallback(checkpoint='last')"
    )
    return None
