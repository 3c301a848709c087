"""``lightning-pareto report``: the report as one HTML file."""

from typing import Any

from lightning_pareto.command_line.output import as_json, notify, say
from lightning_pareto.display.terminal import printable_line
from lightning_pareto.storage.run_folders import find_runs


def run(options: Any) -> int:
    """Write the report and print its path."""
    from lightning_pareto.report import write_report
    from lightning_pareto.report.html.run import has_report, results_folder_of

    path = write_report(options.path, options.output)
    home = results_folder_of(options.path)
    newest = find_runs(options.path, has_report)[1] if options.path.is_dir() else home
    if newest != home:
        notify(f"reporting the older run {home}, because the newest, {newest}, has neither verdict nor result")
    elif home not in (options.path, options.path / "pareto", options.path.parent):
        notify(f"reporting the newest run: {home}")
    say(as_json({"report": str(path.resolve())}) if options.json else f"Written: {printable_line(str(path))}")
    return 0
