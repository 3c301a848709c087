"""A wrong input, and what its error has to say."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
        name: what is wrong.
        call: function of a folder that meets the wrong input.
        error: the exception that it raises.
        wrong: regular expression of the text that says what is wrong.
        mend: of the text that says how to mend it.
    """

    name: str
    call: Callable[[Any], Any]
    error: type[Exception]
    wrong: str
    mend: str
