"""An analysis that was interrupted after its fit had ended, taken up again by fitting once more from a checkpoint."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl

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


def folder_for_stages(trainer: pl.Trainer, dirpath: Path | None) -> Path | None:
    """Where to keep finished stages, on all processes; None if that is not wanted or the folder cannot be made."""
    made = False
    if dirpath is not None and trainer.is_global_zero:
        with contextlib.suppress(OSError):  # the results can still be had, in one go
            (dirpath / STAGES).mkdir(parents=True, exist_ok=True)
            made = True
    return dirpath / STAGES if trainer.strategy.broadcast(made) and dirpath is not None else None


def stages_kept(folder: Path | None) -> bool:
    """Whether an analysis has left finished stages."""
    return folder is not None and any((folder / STAGES).glob("*/*.safetensors"))


def how_to_go_on(folder: Path | None) -> str:
    """What to do about an analysis that was interrupted just now."""
    again = 'trainer.fit(model, datamodule=datamodule, ckpt_path="last.ckpt")'
    if stages_kept(folder):
        return f"The analysis was interrupted. What is finished is kept in {folder}; to go on:\n    {again}"
    return (
        f"The analysis was interrupted. To begin it again from the last checkpoint:\n    {again}\n"
        "With ParetoCallback(dirpath=…) it keeps what is finished."
    )


def remove_stages(folder: Path) -> None:
    """Remove what an analysis of an earlier fit left behind, and nothing else."""
    for path in (folder / STAGES).glob("*/*.safetensors"):
        with contextlib.suppress(OSError):  # they are told from others by their contents
            path.unlink(missing_ok=True)
    for each in (*(folder / STAGES).glob("*/"), folder / STAGES):
        with contextlib.suppress(OSError):  # it is not there, or holds something else
            each.rmdir()
