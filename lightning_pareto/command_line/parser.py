"""The subcommands and their options."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

DESCRIPTION = """Can a classifier still improve on some classes without losing on any other?

Works on the results that ParetoCallback writes to disk. PATH is an influence.safetensors, the folder of a run that
contains one (directly or in pareto/), or a folder above several runs, of which the newest is used.

  lightning-pareto check lightning_logs/version_0
  lightning-pareto reweight lightning_logs/version_0
  lightning-pareto export lightning_logs/version_0 --what suspects -o suspects.csv
  lightning-pareto report lightning_logs/version_0 -o report.html"""

CODES = """exit codes:
    0  success; check, analyse: yes, all targets can gain
    2  wrong options or input; one line on the standard error says how to fix it
    3  a required package is not installed
   10  check, analyse: not proven
   11  check, analyse: no, even the optimistic headroom is negligible
   12  check, analyse: yes, but the model is underfitted: train longer first
   13  compare: some class or the mean falls beyond chance
   14  compare --must-gain: nothing rises beyond chance"""


SUMMARIES = {
    "analyse": "compute influence and verdict of a trained model, without a fit",
    "compare": "compare two models class by class",
    "check": "check whether every class can still gain",
    "reweight": "write sample weights for a second fit",
    "export": "write influence, suspects, weights or verdict as CSV, JSON or npz",
    "report": "write a report of a run as one HTML file",
}

DESCRIPTIONS = {
    "analyse": (
        "Compute influence, verdict and report of a trained model that a LightningCLI configuration describes, for\n"
        "instance the config.yaml that a fit wrote to its log directory. Its ParetoCallback options apply."
    ),
    "compare": (
        "Say whether any class falls beyond chance from one model to another. BEFORE and AFTER are checkpoints of the\n"
        "model in a LightningCLI configuration, or files of predictions (Outcome.save), which need none."
    ),
    "check": "Compute the verdict from the influence and print it.",
    "reweight": "Compute sample weights from influence, for ReweightedDataModule(datamodule, WEIGHTS_FILE).",
    "export": (
        "Write results for other tools. Each training sample is a row: dataset index, label, the model's prediction,\n"
        "influence on the whole validation set and on each category, and its weight if there is one. Positive\n"
        "influence is beneficial. For a verdict, each category is a row."
    ),
    "report": "Write a report of a run as one self-contained HTML file.",
}

PATH: dict[str, Any] = {"metavar": "PATH", "type": Path}
FILE: dict[str, Any] = {"metavar": "FILE", "type": Path}
CONFIG = "YAML file with trainer, model and data"
BUDGET = "share of the training mass that may move (default: that of the fit, or 0.2)"
GAINS: dict[str, Any] = {"metavar": "GAIN", "type": float, "nargs": "+"}
INFLUENCE: dict[str, Any] = {**PATH, "help": "influence.safetensors, or the folder of a run that contains one"}
TARGETS: dict[str, Any] = {
    "metavar": "CLASS",
    "type": str,
    "nargs": "+",
    "help": "categories that must gain, by name or number (default: all)",
}


class UsageError(ValueError):
    """Arguments that the parser does not understand."""


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):  # type: ignore[misc,unused-ignore]
    """Keeps line breaks of descriptions, and shows defaults if there are any."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.default not in (None, False, argparse.SUPPRESS)
        return (action.help or "") + (" (default: %(default)s)" if shown else "")


class _Parser(ArgumentParser):
    """Raises errors instead of printing the usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if "required" in message:
            message += ". Give them first, before options that take several values"
        raise UsageError(message) from ex


def make_parser() -> Any:
    """The parser of ``lightning-pareto``."""
    parser = _parser(DESCRIPTION, prog="lightning-pareto")
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    for name, add_options in _COMMANDS.items():
        command = _parser(DESCRIPTIONS[name])
        add_options(command.add_argument)
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        commands.add_subcommand(name, command, help=SUMMARIES[name])
    return parser


def _parser(description: str, **options: Any) -> Any:
    return _Parser(description=description, epilog=CODES, formatter_class=_Help, **options)


def _analyse(add: Callable[..., Any]) -> None:
    add("config", metavar="CONFIG", type=Path, help=CONFIG)
    add("--ckpt-path", **FILE, help="checkpoint of the trained model (default: the model as it is created)")
    _classes(add)
    add("--budget", type=float, help="share of the training mass that may move (default: that of the callback, or 0.2)")
    add("--level", type=float, help="level of the test (default: that of the callback, or 0.05)")
    add("--dirpath", **{**PATH, "help": "folder for the results (default: pareto in the log directory)"})
    add("--exit-zero", action="store_true", help="exit with 0 whatever the verdict")


def _classes(add: Callable[..., Any]) -> None:
    add("--model", type=str, metavar="CLASS", help="import path of the LightningModule, if CONFIG does not name it")
    add("--data", type=str, metavar="CLASS", help="import path of the LightningDataModule, if CONFIG does not name it")


def _compare(add: Callable[..., Any]) -> None:
    add("before", metavar="BEFORE", type=Path, help="checkpoint or predictions of the model to compare with")
    add("after", metavar="AFTER", type=Path, help="checkpoint or predictions of the model in question")
    add("--config", **FILE, help=CONFIG)
    _classes(add)
    add("--level", type=float, default=0.05, help="level of the tests")
    text = "points that classes may lose, one number or NAME=POINTS for some (default: 0); the mean may lose their mean"
    add("--tolerance", metavar="POINTS", type=str, nargs="+", action="extend", help=text)
    add("--must-gain", action="store_true", help="exit with 14 unless the mean or a class rises beyond chance")
    add("--exit-zero", action="store_true", help="exit with 0 whatever the change")


def _check(add: Callable[..., Any]) -> None:
    add("path", **INFLUENCE)
    add("--budget", type=float, help=BUDGET)
    add("--level", type=float, help="level of the test (default: that of the fit, or 0.05)")
    add("--min-gain", type=float, default=0.01, help="largest negligible relative gain")
    add("--targets", **TARGETS)
    text = "least relative gain of the other categories, one number or one per category (default: 0)"
    add("--floors", **GAINS, help=text)
    add("--exit-zero", action="store_true", help="exit with 0 whatever the verdict")


def _reweight(add: Callable[..., Any]) -> None:
    add("path", **INFLUENCE)
    add("-o", "--output", **FILE, help="file to write (default: weights.safetensors next to PATH)")
    add("--budget", type=float, help=BUDGET)
    add("--targets", **TARGETS)
    text = "least relative gain of each category, or the share of its influence that it keeps (paper), "
    add("--thresholds", **GAINS, help=text + "as one number or one per category")
    rules, methods = ["additive", "multiplicative"], ["mass_preserving", "paper"]
    add("--method", choices=methods, default=methods[0], help="linear program to solve")
    text = "give mass back to the class evenly, or only to samples that keep some"
    add("--return-mass", choices=rules, default=rules[0], help=text)
    add("--max-weight", type=float, default=2.0, help="largest weight, for the paper's method")


def _export(add: Callable[..., Any]) -> None:
    add("path", **PATH, help="influence, weights or verdict file, or the folder of a run")
    text = (
        "what to write (default: the content of the file, or the influence of a folder); suspects are the most harmful "
        "samples, the worst first"
    )
    add("--what", choices=["influence", "suspects", "weights", "verdict"], help=text)
    add("--to", choices=["csv", "json", "npz"], help="format (default: that of the file name, or csv)")
    add("-o", "--output", **FILE, help="file to write (default: the standard output)")
    text = "weights of the samples (default: weights.safetensors next to PATH, if it exists)"
    add("--weights", **FILE, help=text)
    add("--count", type=int, default=100, help="number of suspects")


def _report(add: Callable[..., Any]) -> None:
    add("path", **PATH, help="folder of a run")
    add("-o", "--output", **FILE, help="file to write (default: report.html in that folder)")


_COMMANDS = {
    "analyse": _analyse,
    "check": _check,
    "compare": _compare,
    "reweight": _reweight,
    "export": _export,
    "report": _report,
}
"""Function that adds the options of each subcommand."""
