"""The examples run and print what their docstrings promise. The README and LightningCLI have tests of their own."""

import ast
import re
from pathlib import Path

import pytest

from tests._processes import printed_by

EXAMPLES = Path(__file__).parents[1] / "examples"
YES = "Pareto improvement possible: YES"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")]


def output_of(name, tmp_path):
    output = printed_by(EXAMPLES / name, folder=tmp_path)
    assert not list(tmp_path.iterdir()), "an example leaves no files"
    return output


def percent(pattern, text):
    return [float(number) for number in re.search(pattern, text).groups()]


def test_existing_project(tmp_path):
    output = output_of("existing_project.py", tmp_path)
    assert YES in output
    first, second = percent(r"first fit: worst class ([\d.]+)%(?:.|\n)*second fit: worst class ([\d.]+)%", output)
    assert second > first
    added = [line for line in (EXAMPLES / "existing_project.py").read_text().splitlines() if line.endswith("# <-")]
    assert len(added) == 10


def test_subgroups(tmp_path):
    output = output_of("subgroups.py", tmp_path)
    assert YES in output
    *_, rural = percent(r"suspects by site: north (\d+), harbour (\d+), rural (\d+)", output)
    assert rural >= 60
    assert percent(r"really wrong: (\d+)%", output)[0] >= 50


def test_text_classification(tmp_path):
    output = output_of("text_classification.py", tmp_path)
    assert YES in output
    assert len(re.findall(r"^  labelled (?:sport|weather|market) ", output, re.MULTILINE)) == 10
    assert percent(r"really wrong: (\d+) of 10", output)[0] >= 9


@pytest.mark.distributed
def test_two_processes(tmp_path):
    output = output_of("ddp.py", tmp_path)
    assert output.count(YES) == 1, "only the first process prints"
    ordinary, weighted = percent(
        r"worst class: ([\d.]+)% after the ordinary fit, ([\d.]+)% after the fit with weights", output
    )
    assert weighted > ordinary


def test_notebook(monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient ipykernel")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("pandas")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is committed without outputs"
    nbclient.NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", ()))
    assert YES in printed
    first, second = percent(r"worst class: ([\d.]+)% after the first fit, ([\d.]+)% after the second", printed)
    assert second > first


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_each_example_says_how_to_run_it(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    if path.name != "main_job.py":  # shared by the others
        assert f"python examples/{path.name}" in docstring
