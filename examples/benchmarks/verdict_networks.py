"""Is the verdict right about networks? Small ones on real data, and what refits really do to every class.

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/verdict_networks.py [--emotion FOLDER]

Fashion-MNIST (4,000 training images, a small convolutional net; clean, 10 % and 30 % random wrong labels, shirts and
pullovers confused), scikit-learn's digits (clean, 20 % and 30 %), and the Emotion sentences (4,000; clean and 20 %; an
embedding bag) if a folder with them is given. For each: a first fit, its influence at the best epoch by validation, the
verdict, and then refits from fresh starts with and without the weights of ``reweight``, paired by their seeds, each at
its best epoch by validation, on a test part that no decision saw.

*A refit measurably improves* means: over the pairs, the mean over the classes of the test measure is significantly
better (one-sided paired t-test, 5 %), and no class is significantly worse (the same test for each class, 5 % divided by
the number of classes). The measure is the loss, which the verdict is about; accuracy is printed beside it. A stricter
reading, every single class better in the mean of the pairs, is printed too.

One line is printed for every case as soon as it is done. Expected in ten minutes on one core.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from refits import Case, digits, emotion, fashion, fit, influence_of, small_step
from scipy import stats
from sklearn.metrics import roc_auc_score

from lightning_pareto import ParetoVerdict, check_pareto, reweight

BUDGET = 0.3
LEVEL = 0.05


@dataclass(frozen=True)
class Outcome:
    """What was said about a case, and what was measured: improvements of each class, positive is better."""

    name: str
    verdict: ParetoVerdict
    predicted: np.ndarray  # drop of each class's loss that the weights predict, in sample, (K,)
    after_step: np.ndarray  # drop of the test loss, (K,)
    loss: np.ndarray  # drop of the test loss after a refit, (pairs, K)
    accuracy: np.ndarray  # rise of the test accuracy after a refit, (pairs, K)

    @property
    def first_axis(self) -> float:
        return float(self.verdict.explained_variance_ratio[0])


def improves(change: np.ndarray) -> bool:
    """Significantly better in the mean over the classes, and no class significantly worse; (pairs, K)."""
    better = stats.ttest_1samp(change.mean(axis=1), 0, alternative="greater").pvalue <= LEVEL
    worse = stats.ttest_1samp(change, 0, axis=0, alternative="less").pvalue <= LEVEL / change.shape[1]
    return bool(better and not worse.any())


def outcome(case: Case, seed: int, pairs: int) -> Outcome:
    first = fit(case, None, seed).module
    influence = influence_of(case, first)
    verdict = check_pareto(influence, budget=BUDGET, level=LEVEL)
    found = reweight(influence, budget=BUDGET)
    weights, predicted = found.values, found.predicted_gain
    assert predicted is not None
    step = small_step(case, first, weights)
    seeds = [1_000 + 100 * seed + pair for pair in range(pairs)]
    before, after = [fit(case, None, s) for s in seeds], [fit(case, weights, s) for s in seeds]
    loss = np.stack([b.loss - a.loss for b, a in zip(before, after, strict=True)])
    accuracy = np.stack([a.accuracy - b.accuracy for b, a in zip(before, after, strict=True)])
    return Outcome(case.name, verdict, predicted, step, loss, accuracy)


def line(found: Outcome, seconds: float) -> str:
    change, points = found.loss.mean(axis=0), 100 * found.accuracy.mean(axis=0)
    return (
        f"{found.name:<46} {found.verdict.answer:<10} {found.verdict.p_value:7.1g}  {found.first_axis:4.2f}  "
        f"{'yes' if improves(found.loss) else 'no':<4} {change.mean():+6.3f} {change.min():+6.3f}  "
        f"{'yes' if improves(found.accuracy) else 'no':<4} {points.mean():+5.1f} {points.min():+5.1f}  {seconds:4.0f} s"
    )


def rank_correlations(outcomes: list[Outcome], measured: Callable[[Outcome], np.ndarray]) -> str:
    """Of predicted and measured drops: over all classes of all cases, and the mean of those within each case.

    The held-out gains are those of max-min weights, which make the classes gain alike; the weights that were used have
    predictions of their own, in sample.
    """
    found = []
    held_out = [o.verdict.held_out_gain * o.verdict.scale for o in outcomes]
    for predictions in (held_out, [o.predicted for o in outcomes]):
        pairs = list(zip(predictions, map(measured, outcomes), strict=True))
        pooled = stats.spearmanr(*(np.concatenate(part) for part in zip(*pairs, strict=True))).statistic
        within = np.mean([stats.spearmanr(*pair).statistic for pair in pairs])
        found.append(f"{pooled:8.2f} {within:6.2f}")
    return "   ".join(found)


def report(outcomes: list[Outcome]) -> None:
    yes = np.array([o.verdict.improvable for o in outcomes])
    room = np.array([o.first_axis > 0.2 for o in outcomes])
    truths = {
        "loss improves": [improves(o.loss) for o in outcomes],
        "loss of every class improves": [o.loss.mean(axis=0).min() > 0 for o in outcomes],
        "accuracy improves": [improves(o.accuracy) for o in outcomes],
    }
    print(f"\n{len(outcomes)} cases{'':<31} share  AUC of p  AUC of axis  agreement  paper's   false yes")
    for name, values in truths.items():
        truth = np.array(values)
        areas = [float("nan")] * 2
        if 0 < truth.mean() < 1:
            scores = ([-o.verdict.p_value for o in outcomes], [o.first_axis for o in outcomes])
            areas = [float(roc_auc_score(truth, score)) for score in scores]
        false = f"{int((yes & ~truth).sum())} of {int((~truth).sum())}"
        print(
            f"{name:<38} {truth.mean():5.0%}  {areas[0]:8.2f}  {areas[1]:11.2f}  {(yes == truth).mean():9.0%}"
            f"  {(room == truth).mean():7.0%}   {false}"
        )
    print("rank correlation with the measured drop of each class's loss, over all cases and within a case")
    print("                              held-out gain     predicted by the weights")
    print(f"after a small weighted step   {rank_correlations(outcomes, lambda o: o.after_step)}")
    print(f"after a whole refit           {rank_correlations(outcomes, lambda o: o.loss.mean(axis=0))}")
    ratio = np.median([np.median(o.verdict.standard_error / o.verdict.held_out_gain.std()) for o in outcomes])
    print(f"the errors of the gains over their spread between the classes of a case: {ratio:.1f}", flush=True)


def kinds(options: argparse.Namespace) -> list[Callable[[int], Case]]:
    found: list[Callable[[int], Case]] = [partial(_digits, noise) for noise in (0.0, 0.2, 0.3)]
    if options.emotion:
        found += [partial(emotion, options.emotion, noise) for noise in (0.0, 0.2)]
    for noise in (0.0, 0.1, 0.3, "structured"):
        found.append(partial(_fashion, noise, options.fashion))
    return found


def _digits(noise: float, seed: int) -> Case:
    return digits(noise, seed)


def _fashion(noise: float | str, folder: Path | None, seed: int) -> Case:
    return fashion(noise, seed, folder=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, help="folder with Fashion-MNIST, if it is not found by itself")
    parser.add_argument("--emotion", type=Path, help="folder with train.txt, val.txt and test.txt of Emotion")
    parser.add_argument("--repetitions", type=int, default=2, help="draws of every kind of case")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--pairs", type=int, default=5, help="refits with and without weights for every case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{'':<46} {'verdict':<10} {'p':>7}  axis  loss better, mean, worst  accuracy better, mean, worst")
    outcomes = []
    for seed in range(options.first, options.first + options.repetitions):
        for make in kinds(options):
            start = time.process_time()
            outcomes.append(outcome(make(seed), seed, options.pairs))
            print(line(outcomes[-1], time.process_time() - start), flush=True)
        report(outcomes)


if __name__ == "__main__":
    main()
