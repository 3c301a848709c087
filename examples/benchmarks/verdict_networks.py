"""Is the verdict right about small networks on real data? Compares it with the effect of refits on each class.

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/verdict_networks.py [--emotion FOLDER]

The data: Fashion-MNIST (4,000 training images, a small convolutional network; clean, 10 % and 30 % random wrong labels,
shirts and pullovers confused), scikit-learn's digits (clean, 20 % and 30 % wrong), and the Emotion sentences (4,000, an
embedding bag; clean and 20 % wrong) if their folder is given. For each case there is a first fit, its influence at the
best epoch by validation, and the verdict. Then there are refits from scratch with and without the weights of
``reweight``, paired by their seeds, each at its best epoch by validation, on test samples that no decision used.

*A refit improves* if, over the pairs, the mean over the classes of the test measure is significantly better (one-sided
paired t-test, 5 %) and no class is significantly worse (the same test for each class, 5 % divided by the number of
classes). The measure is the loss, because the verdict is about the loss. Accuracy is printed too, and so is a stricter
criterion: every class is better in the mean over the pairs.

Prints one line for each case as soon as it is done. Takes ten minutes on one core. The table in README.md was made with
``--repetitions 3 --pairs 6``.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    """The verdict on a case, and the measured improvements of each class. Positive is better.

    Attributes:
        name: name of the case.
        verdict: the verdict.
        predicted: the drop of the loss that the weights predict, in sample, (K,).
        after_step: the drop of the test loss after a small step, (K,).
        loss: the drop of the test loss after each refit, (pairs, K).
        accuracy: the rise of the test accuracy after each refit, (pairs, K).
    """

    name: str
    verdict: ParetoVerdict
    predicted: np.ndarray
    after_step: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray

    @property
    def first_axis(self) -> float:
        return float(self.verdict.explained_variance_ratio[0])


def improves(change: np.ndarray) -> bool:
    """Whether the mean over the classes is significantly better and no class significantly worse; change (pairs, K)."""
    better = stats.ttest_1samp(change.mean(axis=1), 0, alternative="greater").pvalue <= LEVEL
    worse = stats.ttest_1samp(change, 0, axis=0, alternative="less").pvalue <= LEVEL / change.shape[1]
    return bool(better and not worse.any())


def outcome(case: Case, seed: int, pairs: int) -> Outcome:
    first = fit(case, None, seed).module
    influence = influence_of(case, first)
    verdict = check_pareto(influence, budget=BUDGET, level=LEVEL)
    weights = reweight(influence, budget=BUDGET)
    assert weights.predicted_gain is not None
    step = small_step(case, first, weights.values)
    seeds = [1_000 + 100 * seed + pair for pair in range(pairs)]
    before, after = [fit(case, None, s) for s in seeds], [fit(case, weights.values, s) for s in seeds]
    loss = np.stack([b.loss - a.loss for b, a in zip(before, after, strict=True)])
    accuracy = np.stack([a.accuracy - b.accuracy for b, a in zip(before, after, strict=True)])
    return Outcome(case.name, verdict, weights.predicted_gain, step, loss, accuracy)


def summary(found: Outcome, seconds: float) -> str:
    change, points = found.loss.mean(axis=0), 100 * found.accuracy.mean(axis=0)
    return (
        f"{found.name:<46} {found.verdict.answer:<10} {found.verdict.p_value:7.1g}  {found.first_axis:4.2f}  "
        f"{'yes' if improves(found.loss) else 'no':<4} {change.mean():+6.3f} {change.min():+6.3f}  "
        f"{'yes' if improves(found.accuracy) else 'no':<4} {points.mean():+5.1f} {points.min():+5.1f}  {seconds:4.0f} s"
    )


def rank_correlations(outcomes: list[Outcome], measured: Callable[[Outcome], np.ndarray]) -> str:
    """Rank correlations of predicted and measured drops: over all cases pooled, and the mean of those within a case.

    There are two predictions. The held-out gains belong to max-min weights, which let all classes gain alike. The
    weights that were used have their own predictions, in sample.
    """
    cells = []
    held_out = [o.verdict.held_out_gain * o.verdict.scale for o in outcomes]
    for predictions in (held_out, [o.predicted for o in outcomes]):
        pairs = list(zip(predictions, map(measured, outcomes), strict=True))
        pooled = stats.spearmanr(*(np.concatenate(part) for part in zip(*pairs, strict=True))).statistic
        within = np.mean([stats.spearmanr(*pair).statistic for pair in pairs])
        cells.append(f"{pooled:8.2f} {within:6.2f}")
    return "   ".join(cells)


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
    print(f"after a complete refit        {rank_correlations(outcomes, lambda o: o.loss.mean(axis=0))}")
    ratio = np.median([np.median(o.verdict.standard_error / o.verdict.held_out_gain.std()) for o in outcomes])
    print(f"standard errors of the gains over their spread between the classes of a case: {ratio:.1f}", flush=True)


def cases(options: argparse.Namespace, seed: int) -> Iterator[Case]:
    for noise in (0.0, 0.2, 0.3):
        yield digits(noise, seed)
    if options.emotion:
        for noise in (0.0, 0.2):
            yield emotion(options.emotion, noise, seed)
    for kind in (0.0, 0.1, 0.3, "structured"):
        yield fashion(kind, seed, folder=options.fashion)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, help="folder with Fashion-MNIST, if it is not found automatically")
    parser.add_argument("--emotion", type=Path, help="folder with train.txt, val.txt and test.txt of Emotion")
    parser.add_argument("--repetitions", type=int, default=2, help="draws of each kind of case")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--pairs", type=int, default=5, help="refits with and without weights for each case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{'':<46} {'verdict':<10} {'p':>7}  axis  loss better, mean, worst  accuracy better, mean, worst")
    outcomes = []
    for seed in range(options.first, options.first + options.repetitions):
        for case in cases(options, seed):
            start = time.process_time()
            outcomes.append(outcome(case, seed, options.pairs))
            print(summary(outcomes[-1], time.process_time() - start), flush=True)
        report(outcomes)


if __name__ == "__main__":
    main()
