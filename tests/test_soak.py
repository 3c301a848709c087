"""Many fits in one process leave nothing behind: a short run of the benchmark, which fails if anything grows."""

import re
from pathlib import Path

import pytest

from tests._processes import printed_by

SOAK = Path(__file__).parents[1] / "examples" / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_fits_leave_no_hooks_files_threads_or_processes():
    printed = printed_by(SOAK, "--rounds", "4")
    last = re.search(r"^ +4 +(\d+) +(\d+) +(\d+) +(\d+) ", printed, re.MULTILINE)
    hooks, files, threads, children = map(int, last.groups())
    assert (hooks, children) == (0, 0)
    assert files > 0
    assert threads == 1
