"""How often does a comparison of two models find a difference that is there, or one that is not?

    python examples/benchmarks/comparison_power.py [--draws 400]

Draws pairs of models on validation sets of 3 to 100 classes and 100 to 10,000 samples. Both models have 80 % of each
class right on average (between 70 and 90 % by class) and differ on a tenth of the samples by chance. Then one of three
things happens to the second model:

* nothing: the shares of *harmful*, *better* and *trade-off* are false alarms, and a *trade-off* counts as both,
* **every class gains 2 points**,
* **one class loses 10 points**, and no other one changes.

Prints the share of draws in which a class or the mean falls beyond chance, the share in which something rises beyond
chance, and how often the 95 % intervals of the classes and of the mean hold the true change.
"""

import argparse

import numpy as np
import numpy.typing as npt

from lightning_pareto import ClasswiseChange, Outcome

SCENES = ("nothing", "all gain 2 points", "one loses 10 points")


def pair(classes: int, size: int, scene: str, seed: int) -> tuple[ClasswiseChange, npt.NDArray[np.float64]]:
    """The change from one model to another, and the true change of each class, (K,)."""
    rng = np.random.default_rng(seed)
    category = rng.permutation(np.arange(size) % classes)
    accuracy = rng.uniform(0.7, 0.9, classes)
    truth = np.zeros(classes)
    if scene == SCENES[1]:
        truth[:] = 0.02
    if scene == SCENES[2]:
        truth[0] = -0.1
    before = rng.random(size) < accuracy[category]
    after = before.copy()
    right, share = accuracy[category], rng.random(size)
    after[before & (share < (0.05 + np.maximum(-truth, 0)[category]) / right)] = False
    after[~before & (share < (0.05 + np.maximum(truth, 0)[category]) / (1 - right))] = True
    names = tuple(map(str, range(classes)))
    first, second = (Outcome(category, correct, correct.astype(float), names) for correct in (before, after))
    return ClasswiseChange(first, second), truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    draws = parser.parse_args().draws
    print(
        f"{'classes':>7} {'samples':>7}  {'second model':20} {'falls':>6} {'rises':>6} {'held':>6} {'held, mean':>10}"
    )
    for classes in (3, 10, 100):
        for size in (100, 1_000, 10_000):
            for scene in SCENES if size >= 3 * classes else ():
                row = []
                for seed in range(draws):
                    change, truth = pair(classes, size, scene, seed)
                    low, high = change.interval
                    ends = change.macro_interval
                    row.append(
                        (
                            change.answer in ("harmful", "trade-off"),
                            change.answer in ("better", "trade-off"),
                            np.mean((low <= truth) & (truth <= high)),
                            ends[0] <= truth.mean() <= ends[1],
                        )
                    )
                cells = [f"{100 * value:5.1f}%" for value in np.mean(row, axis=0)]
                print(f"{classes:7} {size:7}  {scene:20} {cells[0]} {cells[1]} {cells[2]} {cells[3]:>10}", flush=True)


if __name__ == "__main__":
    main()
