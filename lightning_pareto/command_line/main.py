"""Entry point: turns arguments into an exit code and errors into one line, and imports only what is needed."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from lightning_pareto.command_line.output import notify

WRONG_INPUT, NOT_INSTALLED, INTERRUPTED, NOBODY_READS = 2, 3, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default with the arguments of the process, and return its exit code, see ``--help``."""
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # for example if the output is piped to `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails to flush it at exit
        return NOBODY_READS
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        parser_module = import_module("lightning_pareto.command_line.parser")
    except ImportError as error:
        return _fail(f"the command line needs {error.name}: pip install 'lightning_pareto[cli]'", NOT_INSTALLED)
    try:
        options = parser_module.make_parser().parse_args(list(arguments))
        name = options.pop("command")
        return int(import_module(f"lightning_pareto.command_line.{name}").run(options[name]))
    except SystemExit as end:  # after --help and --version
        return int(end.code or 0)
    except parser_module.UsageError as error:
        return _fail(f"{error} (lightning-pareto --help)", WRONG_INPUT)
    except ImportError as error:
        return _fail(str(error), NOT_INSTALLED)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        return _fail(str(error), WRONG_INPUT)


def _fail(message: str, code: int) -> int:
    notify(f"error: {message}")
    return code
