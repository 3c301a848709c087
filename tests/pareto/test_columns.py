"""The verdict's columns: declared once, and read by text, HTML, data frames, loggers and the command line."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

import lightning_pareto
from lightning_pareto import check_pareto, render_report
from lightning_pareto.command_line.check import as_mapping
from lightning_pareto.command_line.output import as_json
from lightning_pareto.display.columns import number
from lightning_pareto.evaluation.change_wording import COLUMNS as CHANGE_COLUMNS
from lightning_pareto.evaluation.result import COLUMNS as RESULT_COLUMNS
from lightning_pareto.integration.output.log_verdict import TABLE, table_of
from lightning_pareto.pareto.columns import COLUMNS
from lightning_pareto.pareto.wording import TEXT
from lightning_pareto.report.html.tables import RESULT, VERDICT
from tests.report._results import influence
from tests.report.html._page import parse

PACKAGE = Path(lightning_pareto.__file__).parent


@pytest.fixture(scope="module")
def verdict():
    """Three categories; the second has no validation samples."""
    return check_pareto(influence(3, absent=(1,), names=["cat", "dog", "cow"]), targets=["cat"], floors=-0.5)


def texts_in_code():
    """Every string in the package but the docstrings, and the file that it is in."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        documentation = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                yield node.value, path.relative_to(PACKAGE).as_posix()


DECLARED = {
    "pareto/columns.py": COLUMNS,
    "evaluation/result.py": RESULT_COLUMNS,
    "evaluation/change_wording.py": CHANGE_COLUMNS,
}


@pytest.mark.parametrize("file", DECLARED)
def test_a_heading_and_its_meaning_exist_once(file):
    columns, texts = DECLARED[file].values(), list(texts_in_code())
    assert len({column.heading for column in columns}) == len({column.meaning for column in columns}) == len(columns)
    for column in columns:
        assert [place for text, place in texts if text == column.meaning] == [file]
        places = [place for text, place in texts if text.casefold() == column.heading.casefold()]
        assert file in places
        if " " in column.heading:  # a single word may also be the name of an attribute
            assert places == [file]


@pytest.mark.parametrize("chosen", [TEXT, TABLE, VERDICT], ids=["text", "loggers", "report"])
def test_every_table_chooses_from_the_columns(chosen):
    assert set(chosen) <= set(COLUMNS)
    assert set(RESULT) <= set(RESULT_COLUMNS)


def test_values_of_an_absent_category_are_missing(verdict):
    for name, column in COLUMNS.items():
        values = column.values(verdict).astype(float)
        assert values.shape == (3,)
        if name == "support":
            assert values.tolist() == [60, 0, 60]
        elif name not in ("samples_needed", "floors"):
            assert np.isnan(values).tolist() == [False, True, False], name
            assert column.cells(verdict)[1] == "–"


def test_text_shows_the_columns(verdict):
    lines = str(verdict).split("\n\n")[1].splitlines()
    headings = " ".join(["category", *(COLUMNS[name].heading for name in TEXT), "asked"])
    assert lines[0].split() == headings.split()
    for k, line in ((0, lines[1]), (2, lines[3])):
        asked = "gain" if verdict.targets[k] else COLUMNS["floors"].cells(verdict)[k]
        assert line.split() == [verdict.category_names[k], *(COLUMNS[name].cells(verdict)[k] for name in TEXT), asked]
    assert "no validation samples" in lines[2]


def test_notebook_shows_the_columns(verdict):
    page = verdict._repr_html_()
    for name in TEXT:
        assert f">{COLUMNS[name].heading}<" in page
        assert all(f">{cell}<" in page for cell in COLUMNS[name].cells(verdict))


def test_data_frame_has_every_column(verdict):
    frame = verdict.to_pandas()
    assert list(frame.columns) == ["target", "present", *COLUMNS]
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(frame[name], column.values(verdict))


def test_command_line_prints_every_column(verdict):
    rows = json.loads(as_json(as_mapping(verdict)))["categories"]
    assert [list(row) for row in rows] == [["category", "target", "present", *COLUMNS]] * 3
    for name, column in COLUMNS.items():
        found = np.array([row[name] for row in rows], dtype=float)
        values = column.values(verdict).astype(float)
        np.testing.assert_array_equal(found, np.where(np.isfinite(values), values, np.nan))


def test_loggers_show_the_columns(verdict):
    headings, rows = table_of(verdict)
    assert headings == ["class", *(COLUMNS[name].heading for name in TABLE)]
    for k, row in enumerate(rows):
        values = [float(COLUMNS[name].values(verdict)[k]) for name in TABLE]
        assert row == [verdict.category_names[k], *(value if np.isfinite(value) else None for value in values)]


def test_report_shows_and_explains_the_columns(verdict):
    table = next(parse(render_report(verdict)).all("table"))
    heads = {th.text: th for th in table.one("thead").all("th")}
    rows = [[cell.text for cell in row.children if not isinstance(cell, str)] for row in table.one("tbody").all("tr")]
    at = list(heads)
    for name in VERDICT:
        column = COLUMNS[name]
        head = heads[column.heading.capitalize()]
        assert column.meaning in (head.one("button").attributes.get("title"), head.attributes.get("title"))
        cells = [row[at.index(column.heading.capitalize())] for row in rows]
        assert cells == [cell.replace("-", "−") for cell in column.cells(verdict)]
    assert number(verdict.held_out_gain[0], COLUMNS["held_out_gain"].form).replace("-", "−") in rows[0]
