"""``lightning-pareto report``: one HTML file."""

from typing import Any

from lightning_pareto.command_line.output import say, say_json, tell
from lightning_pareto.display.terminal import printable_line
from lightning_pareto.storage.run_folders import find_runs


def run(options: Any) -> int:
    """Write the report and say where."""
    from lightning_pareto.report import write_report
    from lightning_pareto.report.html.run import has_report, home_of

    path = write_report(options.path, options.output)
    home = home_of(options.path)
    newest = find_runs(options.path, has_report)[1] if options.path.is_dir() else home
    if newest != home:
        tell(f"the newest run, {newest}, has neither verdict nor result: that of an older one is reported, {home}")
    elif home not in (options.path, options.path / "pareto", options.path.parent):
        tell(f"of the newest run: {home}")
    if options.json:
        say_json({"report": str(path.resolve())})
    else:
        say(f"Written: {printable_line(str(path))}")
    return 0
