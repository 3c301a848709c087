"""``lightning-pareto report``: one HTML file."""

from typing import Any

from lightning_pareto.command_line.output import say, say_json, tell
from lightning_pareto.terminal import harmless_line


def run(options: Any) -> int:
    """Write the report and say where."""
    from lightning_pareto.report import write_report
    from lightning_pareto.report.html.run import home_of

    path = write_report(options.path, options.output)
    home = home_of(options.path)
    if home not in (options.path, options.path / "pareto", options.path.parent):
        tell(f"of the newest run: {home}")
    if options.json:
        say_json({"report": str(path.resolve())})
    else:
        say(f"Written: {harmless_line(str(path))}")
    return 0
