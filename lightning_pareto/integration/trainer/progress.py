"""Progress of long passes, shown by the trainer's progress bar or in its style."""

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from tqdm.auto import tqdm

from lightning_pareto.influence.passes import Progress, silent
from lightning_pareto.integration.trainer.namespaces import is_a

FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class Bar(ABC):
    """A bar for one stage at a time. It disappears when the stage ends."""

    @abstractmethod
    def begin(self, stage: str, total: int) -> None:
        """Show the bar of a stage."""

    @abstractmethod
    def move(self, done: int) -> None:
        """Show that so many batches are done."""

    @abstractmethod
    def end(self) -> None:
        """Remove the bar, if there is one."""


class TQDMBar(Bar):
    """A bar in the style of Lightning's TQDMProgressBar, below its own bars."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None

    def begin(self, stage: str, total: int) -> None:
        """Show the bar of a stage."""
        self._bar = tqdm(
            desc=_title(stage), total=total, leave=False, dynamic_ncols=True, file=sys.stdout, bar_format=FORMAT
        )

    def move(self, done: int) -> None:
        """Show that so many batches are done."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def end(self) -> None:
        """Remove the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class RichBar(Bar):
    """A row in the display of Lightning's RichProgressBar, since a terminal can only have one live display.

    Args:
        progress: the ``rich.progress.Progress`` to add it to.
        refresh: requests a redraw soon; not needed if the display redraws itself.
    """

    def __init__(self, progress: Any, refresh: Callable[[], None] | None = None) -> None:
        self._progress = progress
        self._refresh = refresh
        self._task: Any = None

    def begin(self, stage: str, total: int) -> None:
        """Show the bar of a stage."""
        self._task = self._progress.add_task(_title(stage), total=total)
        self._progress.refresh()

    def move(self, done: int) -> None:
        """Show that so many batches are done."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)
            if self._refresh is not None:
                self._refresh()

    def end(self) -> None:
        """Remove the bar, if there is one."""
        if self._task is not None:
            self._progress.update(self._task, visible=False)  # Lightning relies on the numbers of the other rows
            self._progress.refresh()
            self._task = None


@contextlib.contextmanager
def progress_bar(trainer: pl.Trainer) -> Iterator[Progress]:
    """Show a bar for each stage on rank zero, if the trainer shows progress at all."""
    shown: Any = trainer.progress_bar_callback
    if shown is None or not trainer.is_global_zero or getattr(shown, "is_disabled", False):
        yield silent
        return
    with _bar_beside(trainer, shown) as bar:

        def show(stage: str, done: int, total: int) -> None:
            if done == 0:
                bar.end()
                bar.begin(stage, total)
            bar.move(done)

        try:
            yield show
        finally:
            bar.end()


@contextlib.contextmanager
def _bar_beside(trainer: pl.Trainer, shown: Any) -> Iterator[Bar]:
    if not is_a(shown, RichProgressBar):
        yield TQDMBar()
        return
    progress = getattr(shown, "progress", None)
    live = progress is not None and progress.live.is_started
    if live:
        yield RichBar(progress, shown.refresh)
        return
    from rich.progress import Progress as RichProgress

    with RichProgress(*shown.configure_columns(trainer), transient=True) as own:  # after a fit that was skipped
        yield RichBar(own)


def _title(stage: str) -> str:
    return f"Pareto: {stage}"
