"""Every public name says what it takes, gives and raises, and shows it."""

import ast
import inspect
import re
import textwrap

import pytest

import lightning_pareto

PUBLIC = {name: getattr(lightning_pareto, name) for name in lightning_pareto.__all__}
ERRORS = {name for name, value in PUBLIC.items() if inspect.isclass(value) and issubclass(value, Exception)}
RESULTS = {"Correction", "ParetoResult", "ParetoVerdict", "SamplePreviews", "SampleTable"}
"""Classes that users are handed and do not make; their attributes are described."""


def docstring(value):
    return inspect.getdoc(value) or ""


def section(text, *names):
    """The part of a Google docstring under one of these headings."""
    found = [re.search(rf"^{name}:\n((?:    .*\n?|\n)*)", text, re.MULTILINE) for name in names]
    return "\n".join(match[1] for match in found if match)


def parameters(value):
    signature = inspect.signature(value)
    return [name for name in signature.parameters if name not in ("self", "args", "kwargs")]


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - ERRORS))
def test_every_parameter_is_described(name):
    described = section(docstring(PUBLIC[name]), "Args", "Attributes")
    missing = [each for each in parameters(PUBLIC[name]) if not re.search(rf"^    {each}: \S", described, re.MULTILINE)]
    assert not missing


@pytest.mark.parametrize("name", sorted(name for name, value in PUBLIC.items() if inspect.isfunction(value)))
def test_every_function_says_what_it_returns(name):
    returns = inspect.signature(PUBLIC[name]).return_annotation
    assert returns in (None, "None") or section(docstring(PUBLIC[name]), "Returns")


def raised(value):
    """Errors that the function's own lines raise."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    nodes = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {ast.unparse(node.func) for node in nodes}


@pytest.mark.parametrize("name", sorted(name for name, value in PUBLIC.items() if inspect.isfunction(value)))
def test_every_function_says_what_it_raises(name):
    told = section(docstring(PUBLIC[name]), "Raises")
    assert not [error for error in raised(PUBLIC[name]) if error not in told]


def is_drawing(name):
    return name.startswith("plot_") or name.endswith("_report")


@pytest.mark.parametrize("name", sorted(name for name in PUBLIC.keys() - ERRORS - RESULTS if not is_drawing(name)))
def test_every_name_that_people_call_has_an_example(name):
    assert ">>> " in section(docstring(PUBLIC[name]), "Example")


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_error_says_what_is_wrong(name):
    assert docstring(PUBLIC[name]).endswith(".")


def test_a_section_is_found():
    text = "Do.\n\nArgs:\n    a: one\n        more.\n\n    b: two.\n\nReturns:\n    It.\n"
    assert section(text, "Args") == "    a: one\n        more.\n\n    b: two.\n\n"
    assert section(text, "Example") == ""
