"""One thread for every test, and coverage of the core by its own tests only."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small, and two processes share the machine's cores

CORE = {"data", "influence", "pareto", "report", "reweighting", "test_linprog.py", "test_sampling.py"}


def pytest_collection_modifyitems(items):
    """Trace no other test, nor a slow one, which would take a third of the time again."""
    for item in items:
        part = item.path.relative_to(Path(__file__).parent.parent).parts
        if part[0] == "tests" and (part[1] not in CORE or item.get_closest_marker("slow")):
            item.add_marker(pytest.mark.no_cover)
