"""Peak memory of the whole influence matrix over the number of training samples.

    pip install lightning_pareto
    python examples/benchmarks/influence_memory.py [--plot memory.png]

Each size runs in a process of its own, over a dataset that makes its samples when they are asked for, so that the data
themselves take no room. The table shows the peak of the resident memory above that after the same computation on 600
samples, the size of the result (four bytes for each sample, class and fold, and for each sample and class), and how
much the peak grows with each sample: by a small multiple of the result, while that is put together, and by nothing
else.
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


class Made(Dataset[tuple[Tensor, int]]):
    """Samples that are made when they are read."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 8, 8), (index * 0.618) % 1.0), index % CLASSES


def resident() -> int:
    """Bytes of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Peak(threading.Thread):
    """Watches the resident memory while something else computes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.done = False

    def run(self) -> None:
        while not self.done:
            self.most = max(self.most, resident())
            time.sleep(0.005)


def measure(size: int) -> None:
    """Print samples, peak above the beginning and size of the result, in MiB."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, CLASSES))
    loaders = DataLoader(Made(size), batch_size=500), DataLoader(Made(600), batch_size=100)
    estimate_influence(model, DataLoader(Made(600), batch_size=500), loaders[1], folds=FOLDS)  # what is loaded lazily
    before, peak = resident(), Peak()
    peak.start()
    influence = estimate_influence(model, *loaders, folds=FOLDS)
    peak.done = True
    peak.join()
    assert influence.fold_scores is not None
    result = influence.fold_scores.nbytes + influence.scores.nbytes
    print(size, (peak.most - before) / 2**20, result / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000, 100_000, 200_000])
    parser.add_argument("--one", type=int, help="measure one size in this process")
    parser.add_argument("--plot", type=Path, help="also draw the table to this file; needs matplotlib")
    options = parser.parse_args()
    if options.one:
        measure(options.one)
        return
    print(f"{'samples':>10} {'peak, MiB':>10} {'result, MiB':>12} {'per sample of the peak, bytes':>30}")
    rows: list[tuple[float, float, float]] = []
    for size in options.sizes:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(size)], check=True, capture_output=True, text=True
        )
        samples, peak, result = map(float, done.stdout.split()[-3:])
        rows.append((samples, peak, result))
        more, grown = samples - rows[0][0], peak - rows[0][1]
        slope = f"{grown * 2**20 / more:.0f}" if more else ""
        print(f"{size:>10,} {peak:>10.1f} {result:>12.1f} {slope:>30}", flush=True)
    if options.plot:
        draw(rows, options.plot)


def draw(rows: list[tuple[float, float, float]], path: Path) -> None:
    """Draw the peak and the size of the result over the samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    samples, peaks, results = zip(*rows, strict=True)
    axes.plot(samples, peaks, "o-", label="peak above that of 600 samples")
    axes.plot(samples, results, "s--", label="result")
    axes.set(xlabel="training samples", ylabel="MiB", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
