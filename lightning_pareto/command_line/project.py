"""Makes model, data and trainer of a LightningCLI configuration."""

import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ONLY_OF_FITS = ("ckpt_path", "weights_only")
"""Entries of a saved configuration that belong to the call of ``fit``."""


def project_of(options: Any, adapt: Callable[[dict[str, Any]], None]) -> Any:
    """Model, data and trainer of the configuration, as LightningCLI makes them for a fit.

    Args:
        options: of the command, with ``config``, ``model`` and ``data``.
        adapt: changes the configuration before they are made.
    """
    from lightning.pytorch.cli import LightningCLI

    if "" not in sys.path:  # the user's classes, as with python -m
        sys.path.insert(0, "")
    classes = {"model": _import(options.model), "data": _import(options.data)}
    config = _with_module(_read(options.config), [found.__module__ for found in classes.values() if found])
    _check_classes(config, classes)
    adapt(config)
    arguments, sys.argv = sys.argv, sys.argv[:1]  # those of this command are not LightningCLI's
    try:
        return LightningCLI(
            classes["model"],
            classes["data"],
            subclass_mode_model=classes["model"] is None or "class_path" in config["model"],
            subclass_mode_data=classes["data"] is None or "class_path" in (config.get("data") or {}),
            save_config_callback=None,
            seed_everything_default=False,
            parser_kwargs={"exit_on_error": False},
            run=False,
            args=config,
        )
    except ArgumentError as error:
        raise ValueError(f"LightningCLI cannot read {options.config}: {error}") from error
    finally:
        sys.argv = arguments


def _import(path: str | None) -> Any:
    if path is None:
        return None
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"expected the import path of a class, found {path!r}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped,unused-ignore]

    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    config = found.get("fit", found) if isinstance(found, dict) else None
    if not isinstance(config, dict) or "model" not in config:
        raise ValueError(f"expected a LightningCLI configuration with an entry model, found {path} without one")
    return {name: value for name, value in config.items() if name not in ONLY_OF_FITS}


def class_path(entry: Any) -> str:
    """The class of an entry, which may be in its short form."""
    return str(entry.get("class_path", "") if isinstance(entry, dict) else entry)


def _with_module(config: Any, modules: Sequence[str]) -> Any:
    """Replace ``__main__``, the script of the fit, by the module that the user has named."""
    if isinstance(config, dict):
        return {name: _with_module(value, modules) for name, value in config.items()}
    if isinstance(config, list):
        return [_with_module(value, modules) for value in config]
    if not isinstance(config, str) or not config.startswith("__main__."):
        return config
    if not modules:
        raise ValueError(
            f"the configuration names {config}, a class of the script that was run: name the module of that script "
            "with a class of it, for instance --model train.Classifier"
        )
    return f"{modules[0]}.{config.removeprefix('__main__.')}"


def _check_classes(config: dict[str, Any], classes: dict[str, Any]) -> None:
    entries = ((entry, config.get(entry)) for entry, given in classes.items() if given is None)
    unnamed = [entry for entry, found in entries if isinstance(found, dict) and "class_path" not in found]
    if unnamed:
        options = " ".join(f"--{entry} my_project.MyClass" for entry in unnamed)
        raise ValueError(f"the configuration does not name the class of its {' and '.join(unnamed)}. Add {options}")
