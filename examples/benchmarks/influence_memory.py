"""How does the peak memory of the influence matrix grow with the number of training samples?

    pip install lightning_pareto
    python examples/benchmarks/influence_memory.py [--plot memory.png]

Each size runs in a separate process. The dataset generates its samples when they are read, so the data themselves take
no memory. The table shows:

* the peak of the resident memory during the estimate, above the memory after the same estimate on 600 samples,
* the size of the result: four bytes per sample and class, for each fold and once for the average,
* how much the peak grows per sample. Expected: by two to three times the result, while it is assembled.

The table in README.md was made with ``--sizes 25000 50000 100000 200000``.
"""

import argparse
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_pareto import estimate_influence

CLASSES = 4
FOLDS = 3


class GeneratedSamples(Dataset[tuple[Tensor, int]]):
    """Generates each sample when it is read. Two sets with different first numbers share none."""

    def __init__(self, size: int, first: int = 0) -> None:
        self.size, self.first = size, first

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(self.first + index)
        return torch.rand(1, 8, 8, generator=generator), index % CLASSES


def resident() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class PeakMemory(threading.Thread):
    """Records the peak of the resident memory within a ``with`` block."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._done = False

    def run(self) -> None:
        while not self._done:
            self.peak = max(self.peak, resident())
            time.sleep(0.005)

    def __enter__(self) -> "PeakMemory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self.join()


def measure(size: int) -> None:
    """Print the number of samples, the peak above the memory at the start and the size of the result, in MiB."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, CLASSES))
    small, train = (DataLoader(GeneratedSamples(n), batch_size=500) for n in (600, size))
    val = DataLoader(GeneratedSamples(600, first=10**6), batch_size=100)
    estimate_influence(model, small, val, folds=FOLDS)  # loads everything that is loaded lazily
    before = resident()
    with PeakMemory() as memory:
        influence = estimate_influence(model, train, val, folds=FOLDS)
    assert influence.fold_scores is not None
    result = influence.fold_scores.nbytes + influence.scores.nbytes
    print(size, (memory.peak - before) / 2**20, result / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 50_000, 100_000, 200_000], help="training samples"
    )
    parser.add_argument("--one", type=int, help="measure one size in this process")
    parser.add_argument("--plot", type=Path, help="also plot the table to this file (needs matplotlib)")
    options = parser.parse_args()
    if options.one:
        measure(options.one)
        return
    print(f"{'samples':>10} {'peak, MiB':>10} {'result, MiB':>12} {'growth per sample, bytes':>25}")
    rows: list[tuple[float, float, float]] = []
    for size in options.sizes:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(size)], check=True, capture_output=True, text=True
        )
        samples, peak, result = map(float, done.stdout.split()[-3:])
        rows.append((samples, peak, result))
        more, grown = samples - rows[0][0], peak - rows[0][1]
        slope = f"{grown * 2**20 / more:.0f}" if more else ""
        print(f"{size:>10,} {peak:>10.1f} {result:>12.1f} {slope:>25}", flush=True)
    if options.plot:
        draw(rows, options.plot)


def draw(rows: list[tuple[float, float, float]], path: Path) -> None:
    """Plot the peak and the size of the result against the number of samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    samples, peaks, results = zip(*rows, strict=True)
    axes.plot(samples, peaks, "o-", label="peak above 600 samples")
    axes.plot(samples, results, "s--", label="result")
    axes.set(xlabel="training samples", ylabel="MiB", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
