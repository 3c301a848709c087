"""Is the second fit better than what else one could do? Rivals on data sets with weak classes, over seeds.

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/second_fit.py --only digits plane
    python examples/benchmarks/second_fit.py --emotion FOLDER   # with train.txt, val.txt, test.txt of text;label lines
    python examples/benchmarks/second_fit.py --cifar10 FOLDER --stl10 FOLDER --ag-news FOLDER --only CIFAR STL AG

Every fit starts from the same weights under the same seed, has as many epochs, and is taken at its best epoch by
validation; figures are accuracies on test samples that no decision saw. Against an ordinary fit:

* "best of six": six ordinary fits, the best by validation: what the epochs of the search could have bought,
* "train ∪ val": an ordinary fit on training and validation data, for as many epochs as validation chose,
* class-balanced sampling, focal loss, GroupDRO over the classes,
* leaving out the samples of the highest loss, or of the lowest total influence (with EK-FAC at the best epoch),
* PARETO-LP-GA as published, and the search of ``ParetoTuner``, also with the validation data in its fits.

Prints, for every case, the change of the mean and of the worst class, how many classes rose and fell significantly, and
the epochs and seconds spent; then the same for the search with validation data against "train ∪ val". Finished arms of
a seed are kept in ``--out`` and not run again; ``--arms`` runs some only.
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
    """Run the arms of a seed that are not in its file yet; returns what the file holds then."""
    seed = Seed(case, number)
    found: dict[str, Any] = {"classes": seed.split.class_names, "epochs": case.job.epochs, "accuracy": {}, "about": {}}
    if path.exists():
        found = json.loads(path.read_text())
    for name in arms:
        if name not in found["accuracy"]:
            begun = time.perf_counter()
            model, about = ARMS[name](seed)
            found["about"][name] = {"seconds": time.perf_counter() - begun, **about}
            found["accuracy"][name] = classwise_accuracy(model, seed.split.test, len(found["classes"])).tolist()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found))
    return found


def change(results: list[dict[str, Any]], arms: list[str], baseline: str) -> None:
    """Print how the arms differ from one of them."""
    accuracy = {
        arm: np.array([result["accuracy"][arm] for result in results]) for arm in {baseline: 0} | dict.fromkeys(arms)
    }
    comparison = ClasswiseComparison(accuracy, results[0]["classes"], baseline=baseline)
    print(f"  {'against ' + baseline:<24}  mean change     worst class     rose  fell  epochs  seconds")
    for arm in arms:
        points = 100 * comparison.change(arm).mean(axis=1)
        worst = 100 * (accuracy[arm].min(axis=1) - accuracy[baseline].min(axis=1))
        cells = "   ".join(f"{v.mean():+6.2f} ± {_error(v):4.2f}" for v in (points, worst))
        rose, fell = len(comparison.gained(arm)), len(comparison.lost(arm))
        about = [result["about"].get(arm, {}) for result in results]
        epochs = np.mean([one.get("epochs", FITS.get(arm, 1) * results[0]["epochs"]) for one in about])
        seconds = np.mean([one.get("seconds", np.nan) for one in about])
        print(f"  {arm:<24}  {cells}   {rose:4d}  {fell:4d}  {epochs:6.0f}  {seconds:7.0f}")


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def report(name: str, results: list[dict[str, Any]]) -> None:
    arms = [arm for arm in ARMS if all(arm in result["accuracy"] for result in results)]
    plain = 100 * np.array([result["accuracy"][ORDINARY] for result in results])
    print(
        f"\n{name}: {len(results)} seeds; ordinary fit {plain.mean():.1f} % in the mean, "
        f"worst class {plain.min(axis=1).mean():.1f} %"
    )
    change(results, [arm for arm in arms if arm != ORDINARY], ORDINARY)
    if {BOTH, JOINED} <= set(arms):
        change(results, [BOTH], JOINED)
    for arm in set(arms) & {PARETO, BOTH, PAPER}:
        about = [result["about"][arm] for result in results]
        accepted, gains = sum(one["accepted"] for one in about), np.array([one["gain"][0] for one in about])
        print(
            f"  {arm}: accepted {accepted} of {len(results)}, measured gain {100 * gains.mean():+.2f}; "
            f"verdicts {[one['verdict'] for one in about]}"
        )


def run(name: str, make: Callable[[], Case], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All seeds of a case."""
    case, results = make(), []
    for number in range(options.first_seed, options.first_seed + options.seeds):
        path = options.out / f"{name.replace(' ', '_').replace('%', 'percent')}_{number}.json"
        results.append(run_seed(case, number, path, [ORDINARY, *options.arms]))
        means = {arm: f"{100 * np.mean(values):.1f}" for arm, values in results[-1]["accuracy"].items()}
        print(f"{name}, seed {number}: {means}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="cases whose names contain one of these")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of a fit on images and texts")
    parser.add_argument("--samples", type=int, default=6_000, help="training images")
    parser.add_argument("--val-samples", type=int, default=1_000, help="validation images")
    parser.add_argument("--texts", type=int, default=8_000, help="training texts")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--emotion", type=Path, help="folder of the Emotion texts")
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10, binary version")
    parser.add_argument("--stl10", type=Path, help="folder of STL-10, binary version")
    parser.add_argument("--ag-news", type=Path, help="folder of AG News, train.csv and test.csv")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS), help="what to compare")
    parser.add_argument("--out", type=Path, default=Path("second_fit"), help="where finished seeds are kept")
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
