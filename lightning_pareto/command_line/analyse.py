"""``lightning-pareto analyse``: analyses a trained model that a LightningCLI configuration describes."""

import functools
from typing import Any

from lightning_pareto.command_line.check import as_mapping, exit_code
from lightning_pareto.command_line.output import as_json, say
from lightning_pareto.command_line.project import class_path, project_of

CALLBACK = "lightning_pareto.ParetoCallback"


def run(options: Any) -> int:
    """Analyse the model, print the verdict and return its exit code."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from lightning_pareto.integration.analyse import analyse

    cli = project_of(options, functools.partial(_set_options, options=options))
    try:
        analysis = analyse(cli.model, cli.datamodule, cli.trainer, ckpt_path=options.ckpt_path)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    if options.json and cli.trainer.is_global_zero:
        say(as_json({**as_mapping(analysis.verdict), "folder": analysis.folder}))
    return 0 if options.exit_zero else exit_code(analysis.verdict)


def _set_options(config: dict[str, Any], options: Any) -> None:
    """Put options of the command into those of the ParetoCallback in the configuration, or add one."""
    trainer = config["trainer"] = config.get("trainer") or {}
    callbacks = trainer.get("callbacks") or []
    trainer["callbacks"] = callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    if options.json:
        callbacks[:] = [each for each in callbacks if "ProgressBar" not in class_path(each)]
    entry = next((each for each in callbacks if class_path(each).endswith("ParetoCallback")), None)
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
