"""Progress of long passes, shown by the trainer's progress bar or in its style."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tqdm.auto import tqdm

from lightning_pareto.display.terminal import duration
from lightning_pareto.influence.passes import Progress, silent
from lightning_pareto.integration.trainer.namespaces import is_a

FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


EVERY = 60.0
"""Seconds from one line to the next where there is no progress bar."""


@contextlib.contextmanager
def progress_of(trainer: pl.Trainer, say: Callable[[str], None] | None = None) -> Iterator[Progress]:
    """Report progress on rank zero, and end at once when the process is asked to terminate.

    Each stage has a bar if the trainer shows any, which disappears with the stage. Otherwise ``say`` gets a line a
    minute, if it is given.
    """
    with _shown(trainer, say) as show:

        def report(stage: str, done: int, total: int) -> None:
            if trainer.received_sigterm:  # Lightning only notes the signal, and would wait for the end
                raise SIGTERMException
            show(stage, done, total)

        yield report


@contextlib.contextmanager
def _shown(trainer: pl.Trainer, say: Callable[[str], None] | None) -> Iterator[Progress]:
    bar: Any = trainer.progress_bar_callback
    if not trainer.is_global_zero:
        yield silent
    elif bar is None or getattr(bar, "is_disabled", False):
        yield silent if say is None else _lines(say)
    else:
        with _rich(trainer, bar) if is_a(bar, RichProgressBar) else _tqdm() as show:
            yield show


def _lines(say: Callable[[str], None]) -> Progress:
    """Say once a minute what is done and how much of the stage is left."""
    began = last = time.monotonic()

    def show(stage: str, done: int, total: int) -> None:
        nonlocal began, last
        now = time.monotonic()
        if done == 0:
            began = now
        elif now - last >= EVERY:
            last, left = now, (now - began) * (total - done) / done
            say(f"Pareto: {stage}, {done} of {total} batches, {duration(left)} left")

    return show


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
