"""Time of the headroom's linear program, with its certificate.

    pip install lightning_pareto
    python examples/benchmarks/linear_programs.py

Scores are structured as real ones: a share of jointly harmful samples, effects on the sample's own class, noise. Every
answer is certified by its prices (strong duality). ``--whole`` also solves the program in one piece by HiGHS.
"""

import argparse
import time

import numpy as np

from lightning_pareto.linprog import INFINITY, LinearProgram
from lightning_pareto.pareto.admissible import AdmissibleSet, column_scale
from lightning_pareto.pareto.sifting import solve_max_min, upper_bound

CASES = ((50_000, 10), (1_000_000, 10), (1_000_000, 100))


def scores(samples: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    found = rng.standard_normal((samples, classes), dtype=np.float32)
    found[np.arange(samples), labels] += 2
    found[rng.random(samples) < 0.1] -= 1
    return found, labels


def whole(slopes: np.ndarray, budget: float) -> float:
    """Value of the program solved in one piece."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="also in one piece, for the smallest case")
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    options = parser.parse_args()
    print("  samples  classes   seconds   headroom   relative gap")
    for samples, classes in CASES[: options.cases]:
        found, labels = scores(samples, classes)
        admissible = AdmissibleSet(labels, 0.2)
        slopes = admissible.slopes(found) / column_scale(found)
        start = time.perf_counter()
        answer = solve_max_min(slopes, admissible.largest_sum)
        seconds = time.perf_counter() - start
        gap = upper_bound(slopes, admissible.largest_sum, answer.prices) / answer.value - 1
        print(f"{samples:9,d}  {classes:7d}   {seconds:7.2f}   {answer.value / samples:8.4f}   {gap:.1e}", flush=True)
        if options.whole and samples <= 50_000:
            start = time.perf_counter()
            value = whole(slopes, admissible.largest_sum)
            print(f"  in one piece {time.perf_counter() - start:.2f} s, headroom {value / samples:.4f}")


if __name__ == "__main__":
    main()
