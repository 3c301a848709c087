"""Checks that an installed wheel works: imports, types, templates and the console script. Run it outside a checkout."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import lightning_pareto
from lightning_pareto import InfluenceMatrix, ParetoCallback, check_pareto

SCRIPT = Path(sys.prefix) / "bin" / "lightning-pareto"


def run(*arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """Output of the console script."""
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in codes, (arguments, done.returncode, done.stderr)
    return done.stdout


def main() -> None:
    """Use the installed package."""
    package = Path(lightning_pareto.__file__).parent
    assert package.is_relative_to(sys.prefix), f"{package} is not the installed package"
    assert (package / "py.typed").exists()
    assert ParetoCallback().analyse
    assert "check" in run("--help")
    rng = np.random.default_rng(0)
    folds = rng.normal(size=(5, 120, 3)) + rng.normal(size=(120, 3))
    support = np.full((5, 3), 50)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "influence.safetensors")
        influence = InfluenceMatrix(
            folds.mean(axis=0), np.arange(120) % 3, support=support.sum(axis=0), fold_scores=folds, fold_support=support
        )
        influence.save(path)
        check_pareto(influence).save(Path(folder) / "verdict.safetensors")
        assert "Pareto improvement possible" in run("check", path, codes=(0, 10, 11, 12))
        run("report", folder)
        assert "<html" in (Path(folder) / "report.html").read_text()


if __name__ == "__main__":
    main()
