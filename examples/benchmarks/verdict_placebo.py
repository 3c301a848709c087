"""Is the test too strict where it proves nothing? Compares weights on clean labels with a placebo.

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/verdict_placebo.py

Uses Fashion-MNIST without wrong labels and a small convolutional network. For each draw of the data there is a first
fit, its influence, and refits from scratch that are paired by their seeds, with these weights:

* the max-min weights of the headroom, the weights for the sum of gains, and those of ``reweight`` in between,
* a **placebo**: the max-min weights shuffled within each class. It has the same values, budget and class masses, but no
  information.
* max-min weights with the same budget that may move mass between classes.

Prints the changes against an ordinary refit with the same seed, at the best epoch by validation: test loss and accuracy
in the mean over the classes and in the worst class, and how many classes significantly lose or gain (paired t-test over
all refits, 5 % divided by the number of classes). ``--noise 0.3`` shows the same where there is something to gain.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from refits import fashion, fit, influence_of
from scipy import stats

from lightning_pareto import InfluenceMatrix, check_pareto, reweight
from lightning_pareto.influence.gains import column_scale
from lightning_pareto.pareto.admissible import AdmissibleSet, Float
from lightning_pareto.pareto.headroom import headroom


def arms(influence: InfluenceMatrix, budget: float, seed: int) -> dict[str, Float]:
    """The weights to compare, (N,) each."""
    scores, labels = influence.scores, influence.labels
    scale = column_scale(scores)
    max_min = headroom(scores, scale, AdmissibleSet(labels, budget)).weights
    return {
        "max-min": max_min,
        "sum of gains": reweight(influence, budget=budget, thresholds=0.0).values,
        "in between": reweight(influence, budget=budget).values,
        "placebo": shuffled_within(max_min, labels, seed),
        "max-min, free class masses": headroom(scores, scale, AdmissibleSet(0 * labels, budget)).weights,
    }


def shuffled_within(weights: Float, labels: np.ndarray, seed: int) -> Float:
    """Shuffle the weights within each class."""
    rng = np.random.default_rng(seed)
    shuffled: Float = weights.copy()
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        shuffled[members] = weights[rng.permutation(members)]
    return shuffled


def report(changes: dict[str, list[np.ndarray]], unit: float, title: str) -> None:
    print(f"\n{title:<28} mean ± error        worst class ± error   lose  gain")
    for name, rows in changes.items():
        change = unit * np.stack(rows)  # (refits, K)
        mean, error = change.mean(), stats.sem(change.mean(axis=1))
        worst = int(change.mean(axis=0).argmin())
        level = 0.05 / change.shape[1]
        lose, gain = (
            int((stats.ttest_1samp(change, 0, alternative=side).pvalue <= level).sum()) for side in ("less", "greater")
        )
        print(
            f"{name:<28} {mean:+7.3f} ± {error:.3f}    {change.mean(axis=0)[worst]:+7.3f} ± "
            f"{stats.sem(change[:, worst]):.3f}       {lose:4d}  {gain:4d}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, help="folder with Fashion-MNIST, if it is not found automatically")
    parser.add_argument("--noise", type=float, default=0.0, help="share of flipped training labels")
    parser.add_argument("--samples", type=int, default=6_000, help="number of training images")
    parser.add_argument("--seeds", type=int, default=5, help="draws of the data")
    parser.add_argument("--refits", type=int, default=3, help="refits with each kind of weights for each draw")
    parser.add_argument("--budget", type=float, default=0.3, help="share of the training mass that may move")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    loss: dict[str, list[np.ndarray]] = {}
    accuracy: dict[str, list[np.ndarray]] = {}
    for seed in range(options.seeds):
        case = fashion(options.noise, seed, options.samples, options.fashion)
        influence = influence_of(case, fit(case, None, seed).module)
        verdict = check_pareto(influence, budget=options.budget)
        held_out = float(np.nanmin(verdict.held_out_gain))
        print(
            f"draw {seed}: {verdict.answer}, p = {verdict.p_value:.2g}, headroom {verdict.headroom:.3f} in sample, "
            f"worst held-out gain {held_out:+.3f}",
            flush=True,
        )
        weights = arms(influence, options.budget, seed)
        for refit in range(options.refits):
            start = 1_000 + 100 * seed + refit
            ordinary = fit(case, None, start)
            for name, values in weights.items():
                found = fit(case, values, start)
                loss.setdefault(name, []).append(ordinary.loss - found.loss)
                accuracy.setdefault(name, []).append(found.accuracy - ordinary.accuracy)
        report(loss, 1.0, "drop of the test loss")
        report(accuracy, 100.0, "rise of the test accuracy, %")


if __name__ == "__main__":
    main()
