"""Does it work with a million samples of a hundred classes? Time and memory of verdict, weights and sampler.

    pip install lightning_pareto
    python examples/benchmarks/scale.py [--samples 1000000] [--classes 100] [--folds 3]

The influence is synthetic. All folds of the validation set agree on a sample's influence up to noise, and a tenth of
the samples harm their own class. The printed peak is the memory of the process. It includes the influence itself:
samples × classes × (folds + 1) × four bytes. The table in README.md was made with ``--folds 8``.

The last lines show many epochs of the sampler, in standard errors: how far the mean count of a sample is from its
weight, and how far the counts in the first half of the epochs are from those in the second half. Without drift, both
have a root mean square near 1. The largest of a hundred thousand is then near 4.4.
"""

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from influence_memory import PeakMemory, resident

from lightning_pareto import InfluenceMatrix, ParetoSampler, check_pareto, reweight

T = TypeVar("T")
HARMFUL = 0.1  # share of the samples
DRIFT_SAMPLES = 100_000  # samples of the sampler that runs for many epochs


def synthetic_influence(samples: int, classes: int, folds: int) -> InfluenceMatrix:
    """Influence of samples, some of which harm their own class while the others help it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=samples)
    shared = rng.standard_normal((samples, classes), dtype=np.float32)
    own = np.where(rng.random(samples) < HARMFUL, -8.0, 2.0).astype(np.float32)
    shared[np.arange(samples), labels] += own
    shared -= shared.mean(axis=0)
    fold_scores = np.empty((folds, samples, classes), np.float32)
    for fold in fold_scores:
        rng.standard_normal(out=fold, dtype=np.float32)
        fold *= 0.5
        fold += shared
    support = np.full((folds, classes), 50)
    return InfluenceMatrix(
        fold_scores.mean(axis=0), labels, support=support.sum(axis=0), fold_scores=fold_scores, fold_support=support
    )


def timed(name: str, step: Callable[[], T]) -> T:
    """Run a step, and print how long it took and the peak of the memory during it."""
    start = time.perf_counter()
    with PeakMemory() as memory:
        result = step()
    print(f"{name:30}{time.perf_counter() - start:10.1f}{max(memory.peak, resident()) / 2**30:12.2f}", flush=True)
    return result


def counts_of(weights: npt.NDArray[np.float64], epochs: range) -> npt.NDArray[np.float64]:
    """How often each sample is drawn in these epochs."""
    sampler = ParetoSampler(weights, num_replicas=1, rank=0)
    counts = np.zeros(len(weights))
    for epoch in epochs:
        sampler.set_epoch(epoch)
        counts += np.bincount(np.fromiter(sampler, np.int64, len(sampler)), minlength=len(weights))
    return counts


def drift(epochs: int) -> None:
    """Print how far the counts are from the weights, and those of both halves of the epochs from each other."""
    weights = np.random.default_rng(0).uniform(0, 2, DRIFT_SAMPLES)
    weights *= DRIFT_SAMPLES / weights.sum()
    first, second = counts_of(weights, range(epochs // 2)), counts_of(weights, range(epochs // 2, epochs))
    fraction = weights - np.floor(weights)
    error = np.sqrt(epochs * np.maximum(fraction * (1 - fraction), 1e-3))
    for name, distance in (
        ("mean count from weight", (first + second - epochs * weights) / error),
        ("first half from second", (first - second) / error),
    ):
        print(f"{name:30} root mean square {np.sqrt(np.mean(distance**2)):.3f}, largest {np.abs(distance).max():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000, help="training samples")
    parser.add_argument("--classes", type=int, default=100, help="number of classes")
    parser.add_argument("--folds", type=int, default=3, help="folds of the validation set")
    parser.add_argument("--epochs", type=int, default=1_000, help="epochs of the sampler")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.samples:,} samples, {options.classes} classes, {options.folds} folds")
    print(f"{'':30}{'seconds':>10}{'peak, GiB':>12}")
    influence = timed(
        "synthetic influence", lambda: synthetic_influence(options.samples, options.classes, options.folds)
    )
    verdict = timed("check_pareto", lambda: check_pareto(influence))
    weights = timed("reweight", lambda: reweight(influence))
    assert weights.predicted_gain is not None
    drawn = timed("ParetoSampler, one epoch", lambda: sum(1 for _ in ParetoSampler(weights)))
    print(
        f"verdict {verdict.answer}, p = {verdict.p_value:.1e}; weights from {weights.values.min():.2f} to "
        f"{weights.values.max():.2f}, lowest predicted gain {weights.predicted_gain.min():.1e}; {drawn:,} draws"
    )
    print(f"{options.epochs:,} epochs of {DRIFT_SAMPLES:,} samples:")
    drift(options.epochs)


if __name__ == "__main__":
    main()
