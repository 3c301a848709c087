"""Many fits in one process leave nothing behind: a short run of the benchmark, which fails if anything grows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "examples" / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_fits_leave_no_hooks_files_threads_or_processes():
    done = subprocess.run(
        [sys.executable, SOAK, "--rounds", "5"], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    last = re.search(r"^ +5 +(\d+) +(\d+) +(\d+) +(\d+) ", done.stdout, re.MULTILINE)
    hooks, files, threads, children = map(int, last.groups())
    assert (hooks, children) == (0, 0)
    assert files > 0
    assert threads == 1
