"""How fast is one weighted epoch? ParetoSampler compared with torch's WeightedRandomSampler, on one core.

    python examples/benchmarks/sampler.py

Each case runs in a separate process. An epoch runs from ``iter(sampler)`` to the last index.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from torch.utils.data import Sampler, WeightedRandomSampler

from lightning_pareto import ParetoSampler

SIZES = (1_000_000, 10_000_000, 2**24 + 10)


def peak_memory() -> float:
    """Peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make(name: str, weights: np.ndarray) -> Sampler[int]:
    if name == "ParetoSampler":
        return ParetoSampler(weights)
    return WeightedRandomSampler(torch.from_numpy(weights), len(weights))  # type: ignore[arg-type]


def run(name: str, size: int) -> None:
    torch.set_num_threads(1)
    weights = np.random.default_rng(0).uniform(0, 2, size)
    weights *= size / weights.sum()
    sampler = make(name, weights)
    before, start = peak_memory(), time.process_time()
    try:
        draws = sum(1 for _ in sampler)
    except RuntimeError as error:
        print(f"{name:24}{size:12,}   {str(error)[:60]}")
        return
    seconds, memory = time.process_time() - start, peak_memory() - before
    counts = np.bincount(np.fromiter(sampler, np.int64, draws), minlength=size)
    distance = np.abs(counts - weights).max()
    print(f"{name:24}{size:12,}{seconds:10.2f}{memory:12.0f}{distance:22.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=2, metavar=("SAMPLER", "SIZE"), help="run one case in this process")
    case = parser.parse_args().case
    if case is not None:
        run(case[0], int(case[1]))
        return
    print(f"{'':24}{'samples':>12}{'seconds':>10}{'MiB added':>12}{'count from weight':>22}")
    for size in SIZES:
        for name in ("ParetoSampler", "WeightedRandomSampler"):
            subprocess.run([sys.executable, __file__, "--case", name, str(size)], check=True)


if __name__ == "__main__":
    main()
