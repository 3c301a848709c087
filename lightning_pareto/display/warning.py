"""Warnings that point to the user's line and are given once."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

PASSED_OVER = {
    "contextlib",
    "functools",
    "lightning",
    "lightning_fabric",
    "lightning_pareto",
    "lightning_utilities",
    "pytorch_lightning",
    "torch",
}
"""Packages whose lines tell the user nothing about where a warning comes from."""

_given: ContextVar[set[str] | None] = ContextVar("given", default=None)


def warn(text: str) -> None:
    """Warn at the innermost line outside of this package and those that call it, such as ``trainer.fit(…)``."""
    given = _given.get()
    if given is not None and text in given:
        return
    if given is not None:
        given.add(text)
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in PASSED_OVER:
        frame = frame.f_back
    place = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, UserWarning, frame.f_code.co_filename, frame.f_lineno, registry=place)


@contextlib.contextmanager
def once(given: set[str]) -> Iterator[None]:
    """Leave out warnings that are in ``given`` already, and add those that are not."""
    before = _given.set(given)
    try:
        yield
    finally:
        _given.reset(before)
