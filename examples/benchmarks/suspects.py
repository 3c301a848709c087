"""Which ranking of the training samples finds wrong labels best?

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/suspects.py --emotion FOLDER   # with train.txt, val.txt, test.txt of text;label lines
    python examples/benchmarks/suspects.py --only digits --first-seed 100 --seeds 3 --outside-folds 0   # development

The data are scikit-learn's digits, Fashion-MNIST and the Emotion texts, each with random wrong labels and with labels
confused in one direction. Each model is used at its best epoch by validation. These rankings need one fit:

* the total influence on the validation set.
* the model's confidence in the given label, which ranks as the loss does.
* both together: the mean of their ranks, and ``label_quality``, by which ``suspected_samples`` ranks.

These need five more fits, each without a fifth of the training samples: the confidence and the margin on held-out
samples, which are cleanlab's label quality scores.

Prints the area under the ROC curve and the average precision for the wrong labels, mean ± standard error over seeds.
The evidence of finished seeds is stored in ``--out`` and not computed again.
"""

import argparse
import functools
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto import InfluenceMatrix, estimate_influence, label_quality

sys.path.append(str(Path(__file__).parents[1]))  # the other examples
from main_job import Classifier, Images, Split, quiet
from second_fit_arms import Seed, fit
from second_fit_cases import Case, cases

Row = tuple[str, dict[str, str], float]
ROWS: dict[str, Row] = {  # a case of `second_fit_cases`, confusions to add (true class: given class), and their share
    "digits, 30 % wrong": ("digits, 30 % wrong", {}, 0.0),
    "digits, confused": ("digits, clean", {"8": "1", "9": "3", "7": "4"}, 0.3),
    "Fashion-MNIST, 30 % wrong": ("Fashion-MNIST, 30 % wrong", {}, 0.0),
    "Fashion-MNIST, 20 % wrong, imbalanced": ("Fashion-MNIST, 20 % wrong, imbalanced", {}, 0.0),
    "Fashion-MNIST, confused": ("Fashion-MNIST, confused", {}, 0.0),
    "Emotion, 20 % wrong": ("Emotion, 20 % wrong", {}, 0.0),
    "Emotion, confused": ("Emotion, clean", {"love": "joy", "anger": "sadness", "surprise": "fear"}, 0.3),
    "Emotion, rare class given": ("Emotion, clean", {"joy": "love", "sadness": "anger", "fear": "surprise"}, 0.1),
}


@dataclass(frozen=True)
class Evidence:
    """What is known about each training sample.

    Attributes:
        influence: the influence matrix, with the labels and the model's probabilities.
        outside: probabilities by the model that was fitted without the sample, (N, K). NaN if that was not asked for.
        flipped: which labels are wrong, (N,).
    """

    influence: InfluenceMatrix
    outside: np.ndarray
    flipped: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        assert self.influence.confidence is not None
        return self.influence.confidence


def confidence(e: Evidence) -> np.ndarray:
    return np.asarray(np.take_along_axis(e.outside, e.influence.labels[:, None], axis=1)[:, 0])


def margin(e: Evidence) -> np.ndarray:
    """Confidence minus the highest probability of another label."""
    others = e.outside.copy()
    np.put_along_axis(others, e.influence.labels[:, None], -1.0, axis=1)
    return np.asarray(confidence(e) - others.max(axis=1))


RANKINGS: dict[str, Callable[[Evidence], np.ndarray]] = {  # the lowest values are the most suspect
    "influence": lambda e: e.influence.total(),
    "confidence": lambda e: e.confidence,
    "mean rank of both": lambda e: rankdata(e.influence.total()) + rankdata(e.confidence),
    "label quality": lambda e: label_quality(e.influence),
    "out-of-fold confidence": confidence,
    "out-of-fold margin": margin,
}


def confused_split(case: Case, pairs: dict[str, str], share: float, seed: int) -> Split:
    """Give a share of the samples of some classes the label of another class."""
    split, generator = case.split(seed), torch.Generator().manual_seed(seed)
    x, y = split.train.tensors
    given, flipped = y.clone(), split.flipped.copy()
    for true, wrong in pairs.items():
        hit = (y == split.class_names.index(true)) & (torch.rand(len(y), generator=generator) < share)
        given[hit] = split.class_names.index(wrong)
        flipped |= hit.numpy()
    return replace(split, train=TensorDataset(x, given), flipped=flipped)


@torch.no_grad()
def probabilities(model: Classifier, x: Tensor) -> np.ndarray:
    model.eval()
    return np.asarray(torch.cat([model(part) for part in x.split(1_000)]).double().softmax(dim=1))


def outside_probabilities(seed: Seed, folds: int) -> np.ndarray:
    """Probabilities of each training sample by a model that was fitted without it, (N, K)."""
    x, y = seed.split.train.tensors
    found = np.full((len(y), len(seed.split.class_names)), np.nan)
    for kept, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed.seed).split(y, y):
        data = Images(TensorDataset(x[kept], y[kept]), seed.split.val, seed.case.job.batch_size)
        model, _, _ = fit(seed.start(), seed.case.job, data, seed.seed)
        found[held_out] = probabilities(model, x[held_out])
    return found


def evidence_of(case: Case, number: int, path: Path, folds: int) -> Evidence:
    """The evidence of one seed, from its files as far as they hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed, outside = Seed(case, number), path.with_suffix(".npy")
    if not path.exists():
        loaders = DataLoader(seed.split.train, 128), DataLoader(seed.split.val, 512)
        estimate_influence(seed.ordinary[0], *loaders, folds=1).save(path)
    influence = InfluenceMatrix.load(path)
    if folds and not outside.exists():
        np.save(outside, outside_probabilities(seed, folds))
    unknown = np.full((len(influence.labels), len(seed.split.class_names)), np.nan)
    return Evidence(influence, np.load(outside) if folds else unknown, seed.split.flipped)


def report(name: str, found: list[Evidence]) -> None:
    print(f"\n{name}: {len(found)} seeds, {np.mean([e.flipped.mean() for e in found]):.0%} wrong")
    print(f"  {'':<40}  area under curve   average precision")
    for ranking, quality in RANKINGS.items():
        values = [(e.flipped, -quality(e)) for e in found]
        if not np.isnan([suspicion.sum() for _, suspicion in values]).any():
            cells = [[measure(*pair) for pair in values] for measure in (roc_auc_score, average_precision_score)]
            shown = (f"{np.mean(v):.3f} ± {np.std(v, ddof=1) / len(v) ** 0.5:.3f}" for v in cells)
            print(f"  {ranking:<40}  {'      '.join(shown)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="run only the cases whose names contain one of these")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, at least 2")
    parser.add_argument("--first-seed", type=int, default=0, help="number of the first seed")
    parser.add_argument("--outside-folds", type=int, default=5, help="fits for out-of-fold confidence, 0 for none")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of a fit on images and texts")
    parser.add_argument("--samples", type=int, default=6_000, help="number of training images")
    parser.add_argument("--val-samples", type=int, default=1_000, help="number of validation images")
    parser.add_argument("--texts", type=int, default=8_000, help="number of training texts")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--emotion", type=Path, help="folder of the Emotion texts")
    parser.add_argument("--out", type=Path, default=Path("suspects"), help="folder for the evidence of finished seeds")
    parser.set_defaults(cifar10=None, stl10=None, ag_news=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    warnings.simplefilter("ignore")
    made = cases(options)
    for name, (original, pairs, share) in ROWS.items():
        if original not in made or (options.only and not any(part in name for part in options.only)):
            continue
        case = made[original]()
        case = replace(case, split=functools.partial(confused_split, case, pairs, share))
        found = []
        for number in range(options.first_seed, options.first_seed + options.seeds):
            path = options.out / f"{name.replace(' ', '_').replace('%', 'percent')}_{number}.safetensors"
            found.append(evidence_of(case, number, path, options.outside_folds))
        report(name, found)


if __name__ == "__main__":
    main()
