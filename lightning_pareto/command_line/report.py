"""``lightning-pareto report``: one HTML file."""

from typing import Any

from lightning_pareto.command_line.output import say, say_json
from lightning_pareto.terminal import harmless_line


def run(options: Any) -> int:
    """Write the report and say where."""
    from lightning_pareto.report import write_report

    path = write_report(options.path, options.output)
    if options.json:
        say_json({"report": str(path.resolve())})
    else:
        say(f"Written: {harmless_line(str(path))}")
    return 0
