"""Rules of the code base that a test can check."""

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

ORDER = [
    "arguments",
    "linprog",
    "display",
    "storage",
    "data",
    "datasets",
    "influence",
    "pareto",
    "reweighting",
    "sampling",
    "evaluation",
    "candidates",
    "report",
    "integration",
    "command_line",
]
"""Parts of the package in the direction of the data. Each imports only itself and earlier ones."""

CLIMBS = {
    "evaluation/change.py": "ClasswiseChange.plot",
    "evaluation/comparison.py": "ClasswiseComparison.plot",
    "evaluation/result.py": "ParetoResult.plot",
    "influence/matrix.py": "InfluenceMatrix.plot",
    "pareto/result.py": "ParetoVerdict.plot",
    "reweighting/weights.py": "SampleWeights.plot",
}
"""The methods that may import a later part, which is the report: results that plot themselves."""

PRIVATE = {
    "correction/training_state.py": {"_computed", "_update_count", "_fields"},  # torchmetrics; named tuples
    "trainer/train_loaders.py": {"_iterator"},  # torch's DataLoader
}
"""Names with an underscore that the integration uses and that are neither its own nor Lightning's."""


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SHELL = {"integration", "command_line"}
CORE = [path for path in FILES if part_of(path) in set(ORDER) - SHELL]
INTEGRATION = [path for path in FILES if part_of(path) == "integration"]


def names(paths):
    return [path.relative_to(PACKAGE).as_posix() for path in paths]


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
def test_core_does_not_use_lightning_terminals_or_ranks(path):
    tools = {"tqdm.utils"} if path == PACKAGE / "display" / "terminal.py" else set()  # the width of letters
    roots = {name.split(".")[0] for name in set(imported(path)) - tools}
    assert not roots & {"lightning", "pytorch_lightning", "logging", "tqdm", "rich"}
    assert not {"print", "input"} & set(called(path))
    if path.name != "sampling.py":  # a DistributedSampler asks the process group by contract
        assert not {"dist.get_rank", "dist.get_world_size"} & set(called(path))


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "linprog.py"], ids=str)
def test_only_one_module_imports_the_solver(path):
    assert not any(name.startswith("highspy") for name in imported(path))


def climbs(node, part, inside=()):
    """Imports of later parts of the package, with the function that they are in."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        inside = (*inside, node.name)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        for name in names_imported(node):
            root, *parts = name.split(".")
            if root == "lightning_pareto" and (not parts or ORDER.index(parts[0]) > ORDER.index(part)):
                yield ".".join(inside), name
    for child in ast.iter_child_nodes(node):
        yield from climbs(child, part, inside)


def test_data_flow_in_one_direction():
    found = {}
    for path in FILES:
        if path.parent == PACKAGE and path.name.startswith("__"):  # the package and its command line
            continue
        for function, name in climbs(ast.parse(path.read_text()), part_of(path)):
            assert name.startswith("lightning_pareto.report"), f"{path} imports {name}"
            assert found.setdefault(path.relative_to(PACKAGE).as_posix(), function) == function
    assert found == CLIMBS


def test_package_has_no_other_parts():
    assert {part_of(path) for path in FILES} == {*ORDER, "__init__", "__main__"}


def private_names(path):
    """Names with a leading underscore that are used but do not belong to the file's own objects."""
    tree = ast.parse(path.read_text())
    own, fragments = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            own.add(node.attr)
        if isinstance(node, ast.JoinedStr):
            fragments |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            found = [node.attr]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in fragments:
            found = [] if node.value in own else [node.value]  # as for getattr, or a key of vars()
        elif isinstance(node, ast.keyword):
            found = [node.arg or ""]
        elif isinstance(node, ast.ImportFrom):
            found = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        else:
            continue
        yield from (name for name in found if re.fullmatch(r"_+[A-Za-z]\w*", name) and not name.endswith("__"))


@pytest.mark.parametrize("path", INTEGRATION, ids=names(INTEGRATION))
def test_private_names_of_lightning_are_in_one_file(path):
    name = path.relative_to(PACKAGE / "integration").as_posix()
    found = set(private_names(path))
    if name == "trainer/internals.py":
        assert {"_results", "_data_fetcher", "_combined_loader", "__pl_saved_args", "_logger_connector"} <= found
    else:
        assert found == PRIVATE.get(name, set())


def test_public_names_are_importable_and_documented():
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


def test_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    comparison = lightning_pareto.ClasswiseComparison({"a": [[0.5]]}, ["x"], "a")
    with pytest.raises(ImportError, match=r"pip install 'lightning_pareto\[report\]'"):
        lightning_pareto.plot_comparison(comparison)


def test_requirements_are_ranges():
    requirements = requires("lightning_pareto")
    assert any(line.startswith("torch>=") for line in requirements)
    assert not [line for line in requirements if "==" in line.split(";")[0]]


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="not a checkout")
def test_lowest_run_installs_the_lower_bound_of_each_requirement():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = found["project"]["optional-dependencies"].values()
    requirements = {*found["build-system"]["requires"], *found["project"]["dependencies"], *chain(*extras)}
    bounds = {re.sub(r"\[.*\]|,.*", "", each).replace(">=", "==") for each in requirements}
    taken = subprocess.run([ROOT / ".ci" / "lowest", "--print"], capture_output=True, text=True, check=True).stdout
    assert bounds - {"lightning_pareto"} == set(taken.split())


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"]], ids=" ".join)
def test_lint_and_format(command):
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="NumPy for Python 3.10 has older types")
def test_types():
    # As for Python 3.10, unless the NumPy of this Python needs a later one.
    version = ["--python-version", f"3.{sys.version_info.minor}"] if sys.version_info >= (3, 12) else []
    command = [sys.executable, "-m", "mypy", *version]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
