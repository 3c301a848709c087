"""Is the second fit better than its rivals? Compares them on data sets with weak classes, over several seeds.

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/second_fit.py --only digits plane
    python examples/benchmarks/second_fit.py --emotion FOLDER   # with train.txt, val.txt, test.txt of text;label lines
    python examples/benchmarks/second_fit.py --cifar10 FOLDER --stl10 FOLDER --ag-news FOLDER --only CIFAR STL AG

Every fit starts from the same initial weights under the same seed, has the same number of epochs, and is used at its
best epoch by validation. Figures are accuracies on test samples that no decision used. These rivals are compared with
an ordinary fit:

* "best of six": six ordinary fits, the best by validation.
* "train ∪ val": an ordinary fit on training and validation data, for the number of epochs that validation chose.
* Class-balanced sampling, focal loss, and GroupDRO over the classes.
* Leaving out the samples with the highest loss, or with the lowest total influence (EK-FAC at the best epoch).
* PARETO-LP-GA as published, and the search of ``ParetoTuner``, also with validation data in its fits.

Prints for each case the change of the mean and of the worst class, the number of classes that rose and fell
significantly, and the epochs and seconds spent. Then compares the search with validation data with "train ∪ val". The
results of finished arms are stored in ``--out`` and not computed again. ``--arms`` selects some of them. The tables in
README.md were made with ``--val-samples 2000``.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_pareto import ClasswiseComparison

sys.path.append(str(Path(__file__).parents[1]))  # the other examples
from main_job import classwise_accuracy, quiet
from second_fit_arms import ARMS, BOTH, FITS, JOINED, ORDINARY, PAPER, PARETO, Seed
from second_fit_cases import Case, cases


def run_seed(case: Case, number: int, path: Path, arms: list[str]) -> dict[str, Any]:
    """Run the arms of a seed that its file does not hold yet. Returns the content of the file."""
    seed = Seed(case, number)
    found: dict[str, Any] = {"classes": seed.split.class_names, "epochs": case.job.epochs, "accuracy": {}, "about": {}}
    if path.exists():
        found = json.loads(path.read_text())
    for name in arms:
        if name not in found["accuracy"]:
            start = time.perf_counter()
            model, about = ARMS[name](seed)
            found["about"][name] = {"seconds": time.perf_counter() - start, **about}
            found["accuracy"][name] = classwise_accuracy(model, seed.split.test, len(found["classes"])).tolist()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found))
    return found


def report_changes(results: list[dict[str, Any]], arms: list[str], baseline: str) -> None:
    """Print how the arms differ from the baseline."""
    accuracy = {arm: np.array([result["accuracy"][arm] for result in results]) for arm in (baseline, *arms)}
    comparison = ClasswiseComparison(accuracy, results[0]["classes"], baseline=baseline)
    print(f"  {'against ' + baseline:<24}  mean change     worst class     rose  fell  epochs  seconds")
    for arm in arms:
        points = 100 * comparison.change(arm).mean(axis=1)
        worst = 100 * (accuracy[arm].min(axis=1) - accuracy[baseline].min(axis=1))
        cells = "   ".join(f"{v.mean():+6.2f} ± {_error(v):4.2f}" for v in (points, worst))
        rose, fell = len(comparison.gained(arm)), len(comparison.lost(arm))
        about = [result["about"].get(arm, {}) for result in results]
        epochs = np.mean([notes.get("epochs", FITS.get(arm, 1) * results[0]["epochs"]) for notes in about])
        seconds = np.mean([notes.get("seconds", np.nan) for notes in about])
        print(f"  {arm:<24}  {cells}   {rose:4d}  {fell:4d}  {epochs:6.0f}  {seconds:7.0f}")


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def report(name: str, results: list[dict[str, Any]]) -> None:
    arms = [arm for arm in ARMS if all(arm in result["accuracy"] for result in results)]
    plain = 100 * np.array([result["accuracy"][ORDINARY] for result in results])
    print(
        f"\n{name}: {len(results)} seeds. Ordinary fit: {plain.mean():.1f} % in the mean, "
        f"{plain.min(axis=1).mean():.1f} % in the worst class"
    )
    report_changes(results, [arm for arm in arms if arm != ORDINARY], ORDINARY)
    if {BOTH, JOINED} <= set(arms):
        report_changes(results, [BOTH], JOINED)
    for arm in [arm for arm in arms if arm in (PARETO, BOTH, PAPER)]:
        about = [result["about"][arm] for result in results]
        accepted, gain = sum(notes["accepted"] for notes in about), np.mean([notes["gain"][0] for notes in about])
        print(
            f"  {arm}: accepted {accepted} of {len(results)}, measured gain {100 * gain:+.2f}; "
            f"verdicts {[notes['verdict'] for notes in about]}"
        )
        report_attempts(about)


def report_attempts(about: list[dict[str, Any]]) -> None:
    """Print what each remedy of the searches achieved on validation samples that it did not know."""
    attempts = [attempt for notes in about for attempt in notes.get("attempts", [])]
    for name in dict.fromkeys(attempt[0] for attempt in attempts):
        tried = [attempt[1:] for attempt in attempts if attempt[0] == name]
        mean, worst, harmed, returned = (np.array(values, dtype=float) for values in zip(*tried, strict=True))
        print(
            f"    {name:<40} {len(tried)} tried  {100 * mean.mean():+6.2f} ± {_error(100 * mean):4.2f}  worst "
            f"{100 * worst.mean():+6.2f}  harm in {(harmed > 0).sum():.0f}, returned in {returned.sum():.0f}"
        )


def run(name: str, make: Callable[[], Case], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all seeds of a case."""
    case, results = make(), []
    for number in range(options.first_seed, options.first_seed + options.seeds):
        path = options.out / f"{name.replace(' ', '_').replace('%', 'percent')}_{number}.json"
        results.append(run_seed(case, number, path, [ORDINARY, *options.arms]))
        means = {arm: f"{100 * np.mean(values):.1f}" for arm, values in results[-1]["accuracy"].items()}
        print(f"{name}, seed {number}: {means}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="run only the cases whose names contain one of these")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="number of the first seed")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of a fit on images and texts")
    parser.add_argument("--samples", type=int, default=6_000, help="number of training images")
    parser.add_argument("--val-samples", type=int, default=1_000, help="number of validation images")
    parser.add_argument("--texts", type=int, default=8_000, help="number of training texts")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--emotion", type=Path, help="folder of the Emotion texts")
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10, binary version")
    parser.add_argument("--stl10", type=Path, help="folder of STL-10, binary version")
    parser.add_argument("--ag-news", type=Path, help="folder of AG News, with train.csv and test.csv")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS), help="second fits to compare")
    parser.add_argument("--out", type=Path, default=Path("second_fit"), help="folder for the results of finished arms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    warnings.simplefilter("ignore")
    found = {}
    for name, make in cases(options).items():
        if not options.only or any(part in name for part in options.only):
            found[name] = run(name, make, options)
    for name, results in found.items():
        report(name, results)


if __name__ == "__main__":
    main()
