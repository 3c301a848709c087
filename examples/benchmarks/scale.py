"""A million samples and a hundred categories: seconds and memory of the verdict, the weights and the sampler.

    pip install lightning_pareto
    python examples/benchmarks/scale.py [--samples 1000000] [--classes 100] [--folds 3]

The influence is made up: every fold of the validation set sees the same influence of a sample but for noise, and a
tenth of the samples harms its own class. The peak is that of the whole process, the influence itself (samples ×
classes × (folds + 1) × four bytes) among it. The last lines are of many epochs of the sampler: how far the mean count
of a sample is from its weight, and the counts of the first half of the epochs from those of the second, in standard
errors. Without drift both are near one in the mean, and the largest of a hundred thousand is near 4.4.
"""

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from influence_memory import Peak, resident

from lightning_pareto import InfluenceMatrix, ParetoSampler, check_pareto, reweight

T = TypeVar("T")
HARMFUL = 0.1  # share of the samples
COUNTED = 100_000  # samples of the sampler that runs for many epochs


def made_up(samples: int, classes: int, folds: int) -> InfluenceMatrix:
    """Influence of samples of which some harm their own class and others help it."""
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


def measured(name: str, step: Callable[[], T]) -> T:
    """Run a step and print its seconds and the peak of the memory during it."""
    peak, start = Peak(), time.perf_counter()
    peak.start()
    result = step()
    peak.done = True
    peak.join()
    print(
        f"{name:30}{time.perf_counter() - start:10.1f}{max(peak.most, resident()) / 2**30:12.2f}",
        flush=True,
    )
    return result


def counts_of(weights: npt.NDArray[np.float64], epochs: range) -> npt.NDArray[np.float64]:
    """How often every sample is drawn in these epochs."""
    sampler = ParetoSampler(weights, num_replicas=1, rank=0)
    counts = np.zeros(len(weights))
    for epoch in epochs:
        sampler.set_epoch(epoch)
        counts += np.bincount(np.fromiter(sampler, np.int64, len(sampler)), minlength=len(weights))
    return counts


def drift(epochs: int) -> None:
    """Print how far counts are from weights, and those of the two halves of the epochs from each other."""
    weights = np.random.default_rng(0).uniform(0, 2, COUNTED)
    weights *= COUNTED / weights.sum()
    first, second = counts_of(weights, range(epochs // 2)), counts_of(weights, range(epochs // 2, epochs))
    part = weights - np.floor(weights)
    variance = part * (1 - part)
    safe = np.sqrt(epochs * np.maximum(variance, 1e-3))
    for name, errors in (
        ("mean count from weight", (first + second - epochs * weights) / safe),
        ("first half from second", (first - second) / safe),
    ):
        print(f"{name:30} root mean square {np.sqrt(np.mean(errors**2)):.3f}, largest {np.abs(errors).max():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1_000, help="of the sampler, for its drift")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.samples:,} samples, {options.classes} classes, {options.folds} folds")
    print(f"{'':30}{'seconds':>10}{'peak, GiB':>12}")
    influence = measured("made up", lambda: made_up(options.samples, options.classes, options.folds))
    verdict = measured("check_pareto", lambda: check_pareto(influence))
    weights = measured("reweight", lambda: reweight(influence))
    assert weights.predicted_gain is not None
    drawn = measured("ParetoSampler, one epoch", lambda: sum(1 for _ in ParetoSampler(weights)))
    print(
        f"verdict {verdict.answer}, p = {verdict.p_value:.1e}; weights from {weights.values.min():.2f} to "
        f"{weights.values.max():.2f}, least predicted gain {weights.predicted_gain.min():.1e}; {drawn:,} draws"
    )
    print(f"{options.epochs:,} epochs of {COUNTED:,} samples:")
    drift(options.epochs)


if __name__ == "__main__":
    main()
