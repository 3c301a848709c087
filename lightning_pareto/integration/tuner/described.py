"""Values and functions as texts that are the same in every process, to tell one search from another."""

import functools
from collections.abc import Mapping
from types import CellType, CodeType, FunctionType
from typing import Any


def plain(value: Any) -> Any:
    """A nested value that reads the same in every process: of anything unusual only the kind."""
    if isinstance(value, Mapping):
        return sorted((str(key), plain(part)) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return value if isinstance(value, (str, int, float, bool, type(None))) else type(value).__qualname__


def code_of(function: Any) -> Any:
    """What a function computes, the same in every process: its code, its defaults and what it has taken along."""
    if isinstance(function, functools.partial):
        return [code_of(function.func), plain(function.args), plain(function.keywords)]
    code = getattr(function, "__code__", None)
    if code is None and callable(function):  # an object
        return [type(function).__qualname__, code_of(type(function).__call__), plain(vars(function))]
    if code is None:
        return None
    taken = [_taken(cell) for cell in function.__closure__ or ()]
    return [function.__qualname__, _parts_of(code), plain(function.__defaults__), taken]


def _taken(cell: CellType) -> Any:
    """What a function has taken along from the one around it."""
    try:
        value = cell.cell_contents
    except ValueError:  # not there yet
        return None
    return _parts_of(value.__code__) if isinstance(value, FunctionType) else plain(value)


def _parts_of(code: CodeType) -> Any:
    """The compiled code and that of the functions in it."""
    constants = [_parts_of(each) if isinstance(each, CodeType) else plain(each) for each in code.co_consts]
    return [code.co_code.hex(), code.co_names, constants]
