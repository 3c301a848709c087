"""The subcommands and their options."""

import argparse
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
    0  success; check: yes, all targets can gain
    2  wrong options or input; one line on the standard error says how to fix it
    3  a required package is not installed
   10  check: not proven
   11  check: no, even the optimistic headroom is negligible
   12  check: yes, but the model is underfitted: train longer first"""


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
        raise UsageError(message) from ex


def make_parser() -> Any:
    """The parser of ``lightning-pareto``."""
    parser = _parser(DESCRIPTION, prog="lightning-pareto")
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    for add in (_check, _reweight, _export, _report):
        command, text = add()
        commands.add_subcommand(add.__name__[1:], command, help=text)
    return parser


def _parser(description: str, **options: Any) -> Any:
    return _Parser(description=description, epilog=CODES, formatter_class=_Help, **options)


def _check() -> tuple[Any, str]:
    text = "check whether every class can still gain"
    parser = _parser("Compute the verdict from the influence and print it.")
    _add_input(parser)
    _add_budget(parser)
    parser.add_argument(
        "--level", type=float, default=None, help="level of the test (default: that of the fit, or 0.05)"
    )
    parser.add_argument("--min-gain", type=float, default=0.01, help="largest negligible relative gain")
    _add_targets(parser)
    parser.add_argument(
        "--floors",
        type=float,
        nargs="+",
        metavar="GAIN",
        help="least relative gain of the other categories, one number or one per category (default: 0)",
    )
    parser.add_argument("--exit-zero", action="store_true", help="exit with 0 whatever the verdict")
    _add_json(parser)
    return parser, text


def _reweight() -> tuple[Any, str]:
    text = "write sample weights for a second fit"
    parser = _parser("Compute sample weights from influence, for ReweightedDataModule(datamodule, WEIGHTS_FILE).")
    _add_input(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file to write (default: weights.safetensors next to PATH)"
    )
    _add_budget(parser)
    _add_targets(parser)
    parser.add_argument(
        "--thresholds",
        type=float,
        nargs="+",
        metavar="GAIN",
        help="least relative gain of each category, or the share of its influence that it keeps (paper), "
        "as one number or one per category",
    )
    parser.add_argument(
        "--method", choices=["mass_preserving", "paper"], default="mass_preserving", help="linear program to solve"
    )
    parser.add_argument(
        "--return-mass",
        choices=["additive", "multiplicative"],
        default="additive",
        help="give mass back to the class evenly, or only to samples that keep some",
    )
    parser.add_argument("--max-weight", type=float, default=2.0, help="largest weight, for the paper's method")
    _add_json(parser)
    return parser, text


def _export() -> tuple[Any, str]:
    text = "write influence, suspects, weights or verdict as CSV, JSON or npz"
    parser = _parser(
        "Write results for other tools. Each training sample is a row: dataset index, label, the model's prediction,\n"
        "influence on the whole validation set and on each category, and its weight if there is one. Positive\n"
        "influence is beneficial. For a verdict, each category is a row."
    )
    _add_input(parser, "influence, weights or verdict file, or the folder of a run")
    parser.add_argument(
        "--what",
        choices=["influence", "suspects", "weights", "verdict"],
        help="what to write (default: the content of the file, or the influence of a folder); suspects are the most "
        "harmful samples, the worst first",
    )
    parser.add_argument("--to", choices=["csv", "json", "npz"], help="format (default: that of the file name, or csv)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file to write (default: the standard output)"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights of the samples (default: weights.safetensors next to PATH, if it exists)",
    )
    parser.add_argument("--count", type=int, default=100, help="number of suspects")
    _add_json(parser)
    return parser, text


def _report() -> tuple[Any, str]:
    text = "write a report of a run as one HTML file"
    parser = _parser("Write a report of a run as one self-contained HTML file.")
    parser.add_argument("path", metavar="PATH", type=Path, help="folder of a run")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file to write (default: report.html in that folder)"
    )
    _add_json(parser)
    return parser, text


def _add_input(parser: Any, text: str = "influence.safetensors, or the folder of a run that contains one") -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help=text)


def _add_budget(parser: Any) -> None:
    parser.add_argument(
        "--budget",
        type=float,
        default=None,
        help="share of the training mass that may move (default: that of the fit, or 0.2)",
    )


def _add_targets(parser: Any) -> None:
    parser.add_argument(
        "--targets",
        type=str,
        nargs="+",
        metavar="CLASS",
        help="categories that must gain, by name or number (default: all)",
    )


def _add_json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
