"""How fast is the headroom's linear program?

    pip install lightning_pareto
    python examples/benchmarks/linear_programs.py

The scores resemble real ones: a share of the samples harms all classes, samples affect their own class most, and there
is noise. The size of each sample's scores is lognormal with a parameter σ. Real influences are as heavy-tailed as with
σ = 1.5 to 2. The shadow prices certify every answer (strong duality); the relative gap is printed. The columns:

* *cold*: seconds for a new program.
* *warm*: seconds for the same program with other floors for half of the classes, mean of ten solves.
* *verdict*: seconds for a complete ``check_pareto`` with eight folds.

``--whole`` also solves the program in one piece with HiGHS.
"""

import argparse
import itertools
import time

import numpy as np

from lightning_pareto import InfluenceMatrix, check_pareto
from lightning_pareto.influence.gains import column_scale
from lightning_pareto.linprog import INFINITY, LinearProgram
from lightning_pareto.pareto.admissible import AdmissibleSet
from lightning_pareto.pareto.sifting import MaxMinProgram, upper_bound

SIGMAS = (0.0, 1.5, 2.0)
SIZES = ((50_000, 10), (200_000, 10), (50_000, 100), (1_000_000, 10), (1_000_000, 100), (100_000, 1_000))


def scores(samples: int, classes: int, sigma: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    found = rng.standard_normal((samples, classes), dtype=np.float32)
    found[np.arange(samples), labels] += 2
    found[rng.random(samples) < 0.1] -= 1
    if sigma:
        found *= np.exp(sigma * rng.standard_normal((samples, 1), dtype=np.float32))
    return found, labels


def solve_whole(slopes: np.ndarray, budget: float) -> float:
    """Optimum of the program, solved in one piece."""
    n, k = slopes.shape
    rows = np.zeros((k + 1, n + 1))
    rows[:k, :n], rows[:k, n], rows[k, :n] = slopes.T, -1, 1
    program = LinearProgram(
        objective=np.append(np.zeros(n), 1.0),
        rows=rows,
        row_lower=np.append(np.zeros(k), -INFINITY),
        row_upper=np.append(np.full(k, INFINITY), budget),
        lower=np.append(np.zeros(n), -INFINITY),
        upper=np.append(np.ones(n), INFINITY),
    )
    return program.solve().objective


def time_warm(slopes: np.ndarray, budget: float) -> tuple[float, float]:
    """Seconds to solve with other floors for the second half of the classes, and the largest relative gap."""
    k = slopes.shape[1]
    targets = np.arange(k) < k // 2
    program = MaxMinProgram(slopes, budget, targets)
    largest = program.solve(np.zeros(k)).value
    seconds, gaps = [], []
    for share in np.linspace(-0.2, 0.5, 10):
        floors = np.full(k, share * largest)
        start = time.perf_counter()
        found = program.solve(floors)
        seconds.append(time.perf_counter() - start)
        bound = upper_bound(slopes, budget, found.prices) - found.prices[~targets] @ floors[~targets]
        gaps.append(bound / found.value - 1)
    return float(np.mean(seconds)), max(gaps)


def time_verdict(found: np.ndarray, labels: np.ndarray, folds: int = 8) -> float:
    """Seconds of a complete verdict. Each fold is the scores plus noise."""
    rng = np.random.default_rng(1)
    by_fold = np.stack([found + rng.standard_normal(found.shape, dtype=np.float32) for _ in range(folds)])
    support = np.full((folds, found.shape[1]), 50)
    influence = InfluenceMatrix(by_fold.mean(axis=0), labels, fold_scores=by_fold, fold_support=support)
    start = time.perf_counter()
    check_pareto(influence)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="also solve the smallest case in one piece")
    parser.add_argument("--first", type=int, default=0, help="number of the first size, from 0")
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="stop before this size")
    parser.add_argument("--sigmas", type=float, nargs="+", default=SIGMAS, help="spread of the samples' scores")
    parser.add_argument("--no-verdict", action="store_true", help="only the linear programs")
    options = parser.parse_args()
    print("  samples  classes    σ   cold, s   headroom   relative gap   warm, s   its gap   verdict, s")
    cases = itertools.product(SIZES[options.first : options.sizes], options.sigmas)
    for (samples, classes), sigma in cases:
        found, labels = scores(samples, classes, sigma)
        admissible = AdmissibleSet(labels, 0.2)
        slopes = admissible.slopes(found) / column_scale(found)
        start = time.perf_counter()
        answer = MaxMinProgram(slopes, admissible.capacity).solve()
        cold = time.perf_counter() - start
        gap = upper_bound(slopes, admissible.capacity, answer.prices) / answer.value - 1
        print(
            f"{samples:9,d}  {classes:7d}  {sigma:3.1f}   {cold:7.2f}   {answer.value / samples:8.4f}   {gap:12.1e}",
            end="",
        )
        seconds, gap = time_warm(slopes, admissible.capacity)
        print(f"   {seconds:7.3f}   {gap:7.1e}", end="", flush=True)
        whole = solve_whole(slopes, admissible.capacity) if options.whole and samples <= 50_000 else None
        if not options.no_verdict and samples * classes <= 10_000_000:
            del slopes
            print(f"   {time_verdict(found, labels):10.2f}", end="")
        print(flush=True)
        if whole is not None:
            print(f"  in one piece: headroom {whole / samples:.4f}")


if __name__ == "__main__":
    main()
