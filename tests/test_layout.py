"""Rules of the code base that a test can keep."""

import ast
import re
import subprocess
import sys
from importlib.metadata import requires
from itertools import chain
from pathlib import Path

import pytest

import lightning_pareto

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_pareto"
FILES = sorted(PACKAGE.rglob("*.py"))
SHELL = {"integration", "command_line"}
CORE = [path for path in FILES if not SHELL & set(path.parts) and path != PACKAGE / "__init__.py"]


def names(path):
    return [path.relative_to(PACKAGE).as_posix() for path in path]


def names_imported(node):
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from names_imported(node)


def called(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", CORE, ids=names(CORE))
def test_the_core_knows_neither_lightning_nor_a_terminal_nor_its_rank(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"lightning", "pytorch_lightning", "logging", "tqdm", "rich"}
    assert "lightning_pareto.integration" not in "".join(imported(path))
    assert not {"print", "input"} & set(called(path))
    if path.name != "sampling.py":  # a DistributedSampler follows the process group by contract
        assert not {"dist.get_rank", "dist.get_world_size"} & set(called(path))


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "linprog.py"], ids=str)
def test_only_one_module_knows_the_solver(path):
    assert not any(name.startswith("highspy") for name in imported(path))


def test_data_flows_one_way():
    order = ["loaders", "influence", "linprog", "pareto", "reweighting", "sampling", "integration"]
    for path in FILES:
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part not in order:
            continue
        for name in imported(path):
            if name.startswith("lightning_pareto."):
                other = name.split(".")[1]
                assert other not in order or order.index(other) <= order.index(part), f"{path} imports {name}"


def test_everything_public_is_importable_and_documented():
    for name in lightning_pareto.__all__:
        assert getattr(lightning_pareto, name).__doc__


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_importing_needs_no_extra(path):
    hard = {
        "torch",
        "lightning",
        "torchmetrics",
        "numpy",
        "scipy",
        "highspy",
        "safetensors",
        "tqdm",
        "lightning_utilities",
    }
    if path == PACKAGE / "command_line" / "parser.py":  # imported only to run the command line
        hard.add("jsonargparse")
    top_level = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    roots = {name.split(".")[0] for node in top_level for name in names_imported(node)}
    assert roots <= hard | {"lightning_pareto"} | set(sys.stdlib_module_names)


def test_an_absent_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    comparison = lightning_pareto.ClasswiseComparison({"a": [[0.5]]}, ["x"], "a")
    with pytest.raises(ImportError, match=r"pip install 'lightning_pareto\[report\]'"):
        lightning_pareto.plot_comparison(comparison)


def test_requirements_are_ranges():
    requirements = requires("lightning_pareto")
    assert any(line.startswith("torch>=") for line in requirements)
    assert not [line for line in requirements if "==" in line.split(";")[0]]


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="not a checkout")
def test_the_lowest_run_takes_the_lower_bound_of_every_requirement():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = found["project"]["optional-dependencies"].values()
    requirements = {*found["build-system"]["requires"], *found["project"]["dependencies"], *chain(*extras)}
    bounds = {re.sub(r"\[.*\]", "", each).replace(">=", "==") for each in requirements}
    taken = subprocess.run([ROOT / ".ci" / "lowest", "--print"], capture_output=True, text=True, check=True).stdout
    assert bounds - {"lightning_pareto"} == set(taken.split())


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"]], ids=" ".join)
def test_lint_and_format(command):
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="NumPy's types for Python 3.10 are those of older versions")
def test_types():
    # As for Python 3.10, unless the NumPy of this Python uses what came later.
    version = ["--python-version", f"3.{sys.version_info.minor}"] if sys.version_info >= (3, 12) else []
    command = [sys.executable, "-m", "mypy", *version]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
