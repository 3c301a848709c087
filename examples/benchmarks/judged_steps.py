"""Does the judged step tell what second fits gain, and does its interval hold the value on unseen samples?

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/judged_steps.py [--emotion FOLDER]

The cases are those of ``verdict_networks.py``. For each there is a first fit and its analysis. One second-order step is
made with weights from either half of the validation set and measured on the other half. The same two models are then
measured on test samples, beside the same step without weights, and refits with and without the weights of ``reweight``
are compared there, paired by seeds.

Prints a line for each case, with changes of the mean accuracy over the classes in points, and the cost of the step in
epochs of plain training. Then rank correlations over all cases and within a case, how often signs agree, and how often
the 90 % interval of the judged change holds that on test samples, whose own error counts as well.
"""

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from refits import Case, fit, measures
from scipy import stats
from torch.utils.data import DataLoader, TensorDataset
from verdict_networks import BUDGET, cases

from lightning_pareto import ClassificationTask, ClasswiseChange, InfluenceMatrix, check_pareto, reweight
from lightning_pareto.candidates.judged_step import judge_step, stepped
from lightning_pareto.influence.estimate import estimating
from lightning_pareto.influence.options import Execution, InfluenceOptions, Reading
from lightning_pareto.reweighting.reweight import solve_mass_preserving


@dataclass(frozen=True)
class Row:
    """One case. Changes of accuracy are those of each class, (K,).

    Attributes:
        name: name of the case.
        answer: the verdict's.
        judged: the step on the half of the validation set that it does not know.
        test: the same steps on test samples, in the mean of both.
        plain: steps on the training loss without weights, likewise.
        error: standard error of the mean over the classes of ``test``, for the sampling of test data.
        refits: refits on test samples, in the mean over the pairs.
        epochs: cost of the step, in epochs of training.
    """

    name: str
    answer: str
    judged: ClasswiseChange
    test: np.ndarray
    plain: np.ndarray
    error: float
    refits: np.ndarray
    epochs: float


def row(case: Case, seed: int, pairs: int) -> Row:
    start = time.process_time()
    module = fit(case, None, seed).module
    epoch = (time.process_time() - start) / case.epochs
    train, val = (DataLoader(TensorDataset(*part), batch_size=500) for part in (case.train, case.val))
    how = {"reading": Reading(task=ClassificationTask()), "options": InfluenceOptions(), "execution": Execution()}

    def weigh(influence: InfluenceMatrix) -> np.ndarray:
        return solve_mass_preserving(influence, None, BUDGET)

    before = measures(module, case.test, case.classes)[1]
    with estimating(module, train, val, **how) as estimated:  # type: ignore[arg-type]
        start = time.process_time()
        outcome, after = judge_step(estimated, weigh)
        epochs = (time.process_time() - start) / epoch
        test, plain = (
            np.mean([measures(module, case.test, case.classes)[1] - before for _ in stepped(estimated, how)], axis=0)
            for how in (weigh, lambda influence: influence.present_weights)
        )
    assert after is not None
    judged = ClasswiseChange(outcome, after)
    size = len(case.val[1]) / len(case.test[1])
    seeds = [1_000 + 100 * seed + pair for pair in range(pairs)]
    weights = reweight(estimated.influence, budget=BUDGET).values
    refits = [fit(case, weights, s).accuracy - fit(case, None, s).accuracy for s in seeds]
    refits = refits or [np.full(case.classes, np.nan)]
    error = judged.macro_error * size**0.5
    answer = check_pareto(estimated.influence, budget=BUDGET).answer
    return Row(case.name, answer, judged, test, plain, error, np.mean(refits, axis=0), epochs)


def line(found: Row) -> str:
    judged = f"{100 * found.judged.macro:+.1f} ± {100 * found.judged.macro_error:.1f}"
    return (
        f"{found.name:<46} {found.answer:<11} {judged:>11}  {100 * found.test.mean():+5.1f}  "
        f"{100 * found.plain.mean():+7.1f}  {100 * found.refits.mean():+5.1f}  {found.epochs:5.1f}"
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(stats.spearmanr(a, b).statistic)


def report(rows: list[Row]) -> None:
    judged, test, refits = (
        np.array(values)
        for values in zip(*((r.judged.macro, r.test.mean(), r.refits.mean()) for r in rows), strict=True)
    )
    print(f"\n{len(rows)} cases: rank correlation over the cases and within a case, and agreement of the signs")
    for name, values in (("test", test), ("refits", refits)):
        inside = np.nanmean([correlation(r.judged.accuracy, getattr(r, name)) for r in rows])
        same = np.mean(np.sign(judged) == np.sign(values))
        print(f"judged step and {name:<7} {correlation(judged, values):5.2f}  {inside:5.2f}  {same:4.0%}")
    half = np.array([stats.norm.isf(0.05) * np.hypot(r.judged.macro_error, r.error) for r in rows])
    print(f"90 % intervals that hold the test value: {np.mean(np.abs(judged - test) <= half):.0%}")
    print(f"mean of judged minus test: {100 * np.mean(judged - test):+.2f} points", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, help="folder with Fashion-MNIST, if it is not found automatically")
    parser.add_argument("--emotion", type=Path, help="folder with train.txt, val.txt and test.txt of Emotion")
    parser.add_argument("--repetitions", type=int, default=3, help="draws of each kind of case")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--pairs", type=int, default=3, help="refits with and without weights for each case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{'':<46} {'verdict':<11} {'judged':>11}   test  without  refits  epochs")
    rows = []
    for seed in range(options.first, options.first + options.repetitions):
        for case in cases(options, seed):
            rows.append(row(case, seed, options.pairs))
            print(line(rows[-1]), flush=True)
        report(rows)


if __name__ == "__main__":
    main()
