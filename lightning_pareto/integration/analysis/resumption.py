"""Resume an analysis that was interrupted after its fit, by fitting again from a checkpoint."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import torch

from lightning_pareto.storage.artifacts import remove_temporary_files

STAGES = "stages"
INTERRUPTED = "interrupted.ckpt"


def fit_was_skipped(trainer: pl.Trainer) -> bool:
    """Whether the fit loaded a checkpoint of a finished fit, so nothing was left to train. Call it after the fit."""
    finished = trainer.fit_loop.done and trainer.global_step > 0
    return bool(trainer.ckpt_path and finished and trainer.train_dataloader is not None and not trainer.interrupted)


def was_trained_before(trainer: pl.Trainer) -> bool:
    """Whether this call of ``fit`` will train nothing, because an earlier call of it has reached the end."""
    return bool(trainer.current_epoch and trainer.fit_loop.done and not trainer.ckpt_path)


@contextlib.contextmanager
def back_on_device(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Move the module back to its device for a while, after the strategy has moved it to the CPU."""
    before = module.device
    module.to(trainer.strategy.root_device)
    try:
        yield
    finally:
        module.to(before)


def stages_kept(folder: Path | None) -> bool:
    """Whether an analysis has left finished stages."""
    return folder is not None and any((folder / STAGES).glob("*/*.safetensors"))


def how_to_resume(trainer: pl.Trainer, folder: Path | None) -> str:
    """Advice after an analysis was interrupted, with a checkpoint that exists. It is saved now if the fit kept none."""
    kept = stages_kept(folder)
    advice = f"Finished stages are kept in {folder}. To resume" if kept else "To start over"
    path = checkpoint_of_the_end(trainer, folder)
    return (
        f"The analysis was interrupted. {advice}"
        + (
            f":\n    trainer.fit(model, datamodule=datamodule, ckpt_path={path!r})"
            if path is not None
            else ", fit once more. A checkpoint makes that unnecessary: ModelCheckpoint(save_last=True)"
        )
        + ("" if kept else "\nWith ParetoCallback(dirpath=…) finished stages are kept.")
    )


def checkpoint_of_the_end(trainer: pl.Trainer, folder: Path | None) -> str | None:
    """Path of the checkpoint that a fit has kept at its end, or that is saved now; None if neither is possible.

    With several processes no checkpoint can be saved, since the others may be gone. The newest earlier one is used.
    """
    callbacks, several = trainer.checkpoint_callbacks, trainer.world_size > 1
    last = [getattr(each, "last_model_path", "") for each in callbacks]
    best = [path for each in callbacks for path in getattr(each, "best_k_models", ())]
    for paths in (last, best) if several else (last,):
        found = [path for path in paths if path and Path(path).is_file()]
        newest = max(found, key=lambda path: Path(path).stat().st_mtime_ns, default=None)
        if newest is not None and (several or _step_of(newest) == trainer.global_step):
            return newest
    if several:
        return None
    path = str((folder or Path(trainer.log_dir or trainer.default_root_dir)) / INTERRUPTED)
    try:
        trainer.save_checkpoint(path)
    except Exception:  # a full disk, or a hook of the user's; the advice then names no checkpoint
        return None
    return path


def _step_of(path: str) -> int | None:
    """The training step at which a checkpoint was saved; None if it cannot be read."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception:  # a file can be broken in any way
        return None


def remove_stages(folder: Path) -> None:
    """Remove the stages that an earlier analysis left behind, and nothing else."""
    for kept in (folder / STAGES).glob("*/"):
        remove_temporary_files(kept, "*.safetensors")
        for path in kept.glob("*.safetensors"):
            with contextlib.suppress(OSError):  # a leftover stage is recognised by its contents
                path.unlink(missing_ok=True)
    for each in (*(folder / STAGES).glob("*/"), folder / STAGES):
        with contextlib.suppress(OSError):  # it does not exist, or holds something else
            each.rmdir()
