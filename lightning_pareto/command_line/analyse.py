"""``lightning-pareto analyse``: analyses a trained model that a LightningCLI configuration describes."""

import sys
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_pareto.command_line.check import as_mapping, exit_code
from lightning_pareto.command_line.output import as_json, say

CALLBACK = "lightning_pareto.ParetoCallback"

ONLY_OF_FITS = ("ckpt_path", "weights_only")
"""Entries of a saved configuration that belong to the call of ``fit``."""


def run(options: Any) -> int:
    """Analyse the model, print the verdict and return its exit code."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from lightning_pareto.integration.analyse import analyse

    cli = _project(options)
    try:
        analysis = analyse(cli.model, cli.datamodule, cli.trainer, ckpt_path=options.ckpt_path)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    if options.json and cli.trainer.is_global_zero:
        say(as_json({**as_mapping(analysis.verdict), "folder": analysis.folder}))
    return 0 if options.exit_zero else exit_code(analysis.verdict)


def _project(options: Any) -> Any:
    """Model, data and trainer of the configuration, as LightningCLI makes them for a fit."""
    from lightning.pytorch.cli import LightningCLI

    if "" not in sys.path:  # the user's classes, as with python -m
        sys.path.insert(0, "")
    classes = {"model": _import(options.model), "data": _import(options.data)}
    config = _with_module(_read(options.config), [found.__module__ for found in classes.values() if found])
    _check_classes(config, classes)
    _set_options(config, options)
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


def _set_options(config: dict[str, Any], options: Any) -> None:
    """Put options of the command into those of the ParetoCallback in the configuration, or add one."""
    trainer = config["trainer"] = config.get("trainer") or {}
    callbacks = trainer.get("callbacks") or []
    trainer["callbacks"] = callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    if options.json:
        callbacks[:] = [each for each in callbacks if "ProgressBar" not in _class_path(each)]
    entry = next((each for each in callbacks if _class_path(each).endswith("ParetoCallback")), None)
    if isinstance(entry, str):
        callbacks[callbacks.index(entry)] = entry = {"class_path": entry}
    if entry is None:
        entry = {"class_path": CALLBACK}
        callbacks.append(entry)
    given = {"budget": options.budget, "level": options.level, "dirpath": options.dirpath and str(options.dirpath)}
    chosen = {name: value for name, value in given.items() if value is not None}
    if options.json:
        chosen["verbose"] = trainer["enable_progress_bar"] = False
    entry["init_args"] = (entry.get("init_args") or {}) | chosen


def _class_path(entry: Any) -> str:
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
