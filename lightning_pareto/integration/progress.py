"""Progress of long passes in the style of Lightning's own bar."""

import contextlib
from collections.abc import Iterator

import lightning.pytorch as pl
from tqdm.auto import tqdm

from lightning_pareto.influence.passes import Progress, silent


@contextlib.contextmanager
def progress_bar(trainer: pl.Trainer) -> Iterator[Progress]:
    """Show a bar per stage on rank zero, if the trainer shows progress at all."""
    if trainer.progress_bar_callback is None or not trainer.is_global_zero:
        yield silent
        return
    bars: list[tqdm[None]] = []

    def show(stage: str, done: int, total: int) -> None:
        if done == 0:
            close()
            bars.append(tqdm(desc=f"Pareto: {stage}", total=total, leave=False, dynamic_ncols=True))
        bars[-1].update(done - bars[-1].n)

    def close() -> None:
        for bar in bars:
            bar.close()
        bars.clear()

    try:
        yield show
    finally:
        close()
