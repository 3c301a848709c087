"""Progress of long passes, shown by the trainer's progress bar or in its style."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from tqdm.auto import tqdm

from lightning_pareto.influence.passes import Progress, silent
from lightning_pareto.integration.trainer.namespaces import is_a

FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


@contextlib.contextmanager
def progress_bar(trainer: pl.Trainer) -> Iterator[Progress]:
    """Show a bar for each stage on rank zero, if the trainer shows progress at all. It disappears with the stage."""
    shown: Any = trainer.progress_bar_callback
    if shown is None or not trainer.is_global_zero or getattr(shown, "is_disabled", False):
        yield silent
        return
    with _rich(trainer, shown) if is_a(shown, RichProgressBar) else _tqdm() as show:
        yield show


@contextlib.contextmanager
def _tqdm() -> Iterator[Progress]:
    """Bars in the style of Lightning's TQDMProgressBar, below its own bars."""
    bars: list[tqdm[None]] = []

    def show(stage: str, done: int, total: int) -> None:
        if done == 0:
            close()
            options: dict[str, Any] = {"leave": False, "dynamic_ncols": True, "file": sys.stdout, "bar_format": FORMAT}
            bars.append(tqdm(desc=f"Pareto: {stage}", total=total, **options))
        bars[-1].update(done - bars[-1].n)

    def close() -> None:
        for bar in bars:
            bar.close()

    try:
        yield show
    finally:
        close()


@contextlib.contextmanager
def _rich(trainer: pl.Trainer, shown: Any) -> Iterator[Progress]:
    """Rows in the display of Lightning's RichProgressBar, because a terminal can only have one live display."""
    progress, rows = getattr(shown, "progress", None), list[Any]()
    with contextlib.ExitStack() as stack:
        if progress is None or not progress.live.is_started:  # after a fit that was skipped
            from rich.progress import Progress as RichProgress

            progress = stack.enter_context(RichProgress(*shown.configure_columns(trainer), transient=True))

        def show(stage: str, done: int, total: int) -> None:
            if done == 0:
                hide()
                rows.append(progress.add_task(f"Pareto: {stage}", total=total))
            progress.update(rows[-1], completed=done)
            progress.refresh()

        def hide() -> None:
            for row in rows:  # Lightning relies on the numbers of its own rows
                progress.update(row, visible=False)
            progress.refresh()

        try:
            yield show
        finally:
            hide()
