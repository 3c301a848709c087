"""An analysis that was interrupted after its fit had ended, taken up again by fitting once more from a checkpoint."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl

from lightning_pareto.storage.artifacts import remove_temporary_files

STAGES = "stages"


def fit_was_skipped(trainer: pl.Trainer) -> bool:
    """Whether a checkpoint of a finished fit was loaded and there was nothing left to train; after the fit."""
    finished = trainer.fit_loop.done and trainer.global_step > 0
    return bool(trainer.ckpt_path and finished and trainer.train_dataloader is not None and not trainer.interrupted)


@contextlib.contextmanager
def back_on_device(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Bring the module, which the strategy has put down on the CPU by now, to its device for a while."""
    before = module.device
    module.to(trainer.strategy.root_device)
    try:
        yield
    finally:
        module.to(before)


def stages_kept(folder: Path | None) -> bool:
    """Whether an analysis has left finished stages."""
    return folder is not None and any((folder / STAGES).glob("*/*.safetensors"))


def how_to_go_on(trainer: pl.Trainer, folder: Path | None) -> str:
    """What to do about an analysis that was interrupted just now."""
    kept = stages_kept(folder)
    told = f"What is finished is kept in {folder}; to go on" if kept else "To begin it again from the last checkpoint"
    path = last_checkpoint(trainer)
    if path is None:
        path, told = "last.ckpt", f"{told}, next time with a ModelCheckpoint(save_last=True)"
    return (
        f"The analysis was interrupted. {told}:\n"
        f"    trainer.fit(model, datamodule=datamodule, ckpt_path={path!r})"
        + ("" if kept else "\nWith ParetoCallback(dirpath=…) it keeps what is finished.")
    )


def last_checkpoint(trainer: pl.Trainer) -> str | None:
    """Path of the newest checkpoint that the fit has kept, the last one by preference; None if there is none."""
    callbacks = trainer.checkpoint_callbacks
    last = [path for each in callbacks if (path := getattr(each, "last_model_path", "")) and Path(path).is_file()]
    best = [path for each in callbacks for path in getattr(each, "best_k_models", ()) if Path(path).is_file()]
    return max(last or best, key=lambda path: Path(path).stat().st_mtime, default=None)


def remove_stages(folder: Path) -> None:
    """Remove what an analysis of an earlier fit left behind, and nothing else."""
    for kept in (folder / STAGES).glob("*/"):
        remove_temporary_files(kept, "*.safetensors")
        for path in kept.glob("*.safetensors"):
            with contextlib.suppress(OSError):  # they are told from others by their contents
                path.unlink(missing_ok=True)
    for each in (*(folder / STAGES).glob("*/"), folder / STAGES):
        with contextlib.suppress(OSError):  # it is not there, or holds something else
            each.rmdir()
