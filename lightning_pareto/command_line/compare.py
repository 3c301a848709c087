"""``lightning-pareto compare``: prints how two models differ and returns as an exit code whether one does harm."""

from typing import Any

from lightning_pareto.command_line.output import as_json, say
from lightning_pareto.command_line.project import project_of
from lightning_pareto.evaluation.change import ClasswiseChange
from lightning_pareto.evaluation.outcome import FILE_SUFFIX, Outcome

HARMFUL, NOT_BETTER = 13, 14


def run(options: Any) -> int:
    """Print the change from the first model to the second and return its exit code."""
    change = _change(options)
    say(as_json(change.as_dict()) if options.json else str(change))
    if options.exit_zero:
        return 0
    if change.answer in ("harmful", "trade-off"):
        return HARMFUL
    return NOT_BETTER if options.must_gain and change.answer != "better" else 0


def _change(options: Any) -> ClasswiseChange:
    judged: dict[str, Any] = {"level": options.level, "tolerance": _tolerance(options.tolerance)}
    if options.config is None:
        others = [str(path) for path in (options.before, options.after) if path.suffix != FILE_SUFFIX]
        if others:
            raise ValueError(
                f"{others[0]} is not a file of predictions ({FILE_SUFFIX}). For a checkpoint, add the LightningCLI "
                "configuration that describes its model and data: --config config.yaml"
            )
        return ClasswiseChange(Outcome.load(options.before), Outcome.load(options.after), **judged)
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from lightning_pareto.integration.compare import compare_models

    cli = project_of(options, _without_traces)
    data = cli.datamodule if cli.datamodule is not None else cli.model.val_dataloader()
    try:
        return compare_models(options.before, options.after, data, model=cli.model, trainer=cli.trainer, **judged)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error


def _without_traces(config: dict[str, Any]) -> None:
    """Leave out what writes files or the screen."""
    trainer = config["trainer"] = config.get("trainer") or {}
    trainer |= {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "callbacks": None}


def _tolerance(given: list[str] | None) -> float | dict[str, float]:
    """One number of points for all classes, or ``NAME=POINTS`` for some, as a share."""
    try:
        if given and all("=" in each for each in given):
            by_name = {name: _share(points) for name, _, points in (each.rpartition("=") for each in given)}
            if len(by_name) == len(given):
                return by_name
        (one,) = given or ["0"]
        return _share(one)
    except ValueError as error:
        raise ValueError(
            "--tolerance takes one number of points in [0, 100), or CLASS=POINTS for some classes, each once, found "
            f"{given}"
        ) from error


def _share(points: str) -> float:
    share = float(points) / 100
    if not 0 <= share < 1:
        raise ValueError
    return share
