"""The report as one self-contained HTML file."""

import base64
import hashlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning_pareto.display.terminal import printable
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report import story
from lightning_pareto.report.html import tables, words
from lightning_pareto.report.html.charts import charts
from lightning_pareto.report.html.run import Run, read_run, results_folder_of
from lightning_pareto.report.previews import SamplePreviews
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.storage.artifacts import write_atomically

TEMPLATES = Path(__file__).parent / "templates"
REPORT_FILE = "report.html"


def write_report(folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run as one HTML file, from the results on disk.

    The folder is the run's log directory, its ``pareto`` folder, or the folder of a search. If there are several runs
    below it, the newest is reported. The file loads nothing: you can send it, archive it and open it offline.

    Args:
        folder: folder of the results, or the path of one of them.
        output: the file to write, by default ``report.html`` in the folder.

    Returns:
        The path written.

    Raises:
        FileNotFoundError: if there are no results.
        ArtifactError: if a result is damaged, or the results are from different runs.
        ImportError: without matplotlib and Jinja2: ``pip install 'lightning_pareto[report]'``.
    """
    folder = Path(folder)
    home = results_folder_of(folder).resolve()
    home = home.parent if home.name == "pareto" else home  # every run has this folder
    path = (folder.parent if folder.is_file() else folder) / REPORT_FILE if output is None else Path(output)
    write_atomically(path, _page(read_run(folder), "/".join(home.parts[-3:]).strip("/")).encode(errors="replace"))
    return path


def render_report(
    verdict: ParetoVerdict | None = None,
    *,
    influence: InfluenceMatrix | None = None,
    weights: SampleWeights | None = None,
    result: ParetoResult | None = None,
    previews: SamplePreviews | None = None,
    outcome: Outcome | None = None,
    after_step: Outcome | None = None,
    title: str = "",
) -> str:
    """Return the report of results in memory as one HTML document.

    Args:
        verdict: the verdict.
        influence: the influence matrix of the verdict. With it, the report shows suspected samples.
        weights: the weights of a second fit.
        result: the result of a search for a second fit.
        previews: pictures and texts of the suspected samples.
        outcome: the model's predictions of the validation samples, for the accuracy of each class.
        after_step: those after one small step, see :class:`Analysis`.
        title: name of the run.

    Returns:
        The document.

    Raises:
        ValueError: with neither verdict nor result, or if the results have different categories.
        ImportError: without matplotlib and Jinja2: ``pip install 'lightning_pareto[report]'``.
    """
    return _page(Run(verdict, influence, weights, result, previews, outcome, after_step), title)


def _page(run: Run, title: str) -> str:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("the report needs Jinja2: pip install 'lightning_pareto[report]'") from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    today, columns, suspects = tables.accuracy_columns(run), tables.evidence_columns(run), tables.suspects(run)
    verdict, step = run.verdict, run.step
    attempts = {} if run.result is None else run.result.attempt_cells()
    return environment.get_template("report.html.j2").render(
        title=printable(title, 80),
        version=version("lightning_pareto"),
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        badge="" if verdict is None else verdict.answer,
        lines=[
            *(() if verdict is None else story.answer(verdict, step, run.influence)),
            *([] if run.result is None else [words.result_line(run.result)]),
        ],
        accuracy="" if run.outcome is None else story.accuracy_today(run.outcome),
        measured="" if step is None else story.step_measured(step),
        following=[] if verdict is None or run.result else story.next_steps(verdict, step, run.influence),
        tables={
            "today": (today, tables.lowest_first(run, tables.rows_of(today))),
            "evidence": (columns, tables.rows_of(columns)),
        },
        attempt_heads=list(attempts),
        attempts=list(zip(*attempts.values(), strict=True)),
        cautions=list(words.cautions(run)),
        evidence=[] if verdict is None else list(words.evidence(verdict)),
        lacking=[] if verdict is None else words.distance_from_proof(verdict),
        suspects=suspects,
        classes=len(run.category_names),
        trials=() if run.result is None else run.result.trials,
        charts=charts(run),
        how=tables.how_computed(run),
        data=_data(run, suspects),
    )


def _data(run: Run, suspects: list[tables.Suspect]) -> dict[str, Any]:
    """The main numbers, for programs that read the page."""
    found: dict[str, Any] = {"category_names": list(run.category_names)}
    if run.verdict is not None:
        found["answer"] = run.verdict.answer
        found["headroom"] = run.verdict.headroom
        found["p_value"] = None if run.verdict.p_value != run.verdict.p_value else run.verdict.p_value
    if run.result is not None:
        found["accepted"] = run.result.accepted
    if run.influence is not None:
        found["suspects"] = [suspect.index for suspect in suspects]
    return found
