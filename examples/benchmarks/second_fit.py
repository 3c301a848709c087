"""Is the second fit better than what else one could do? Rivals on data sets with weak classes, over seeds.

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/second_fit.py --only digits plane
    python examples/benchmarks/second_fit.py --emotion FOLDER   # with train.txt, val.txt, test.txt of text;label lines

Every fit starts from the same weights under the same seed, has as many epochs, and is taken at its best epoch by
validation; figures are accuracies on test samples that no decision saw. Against an ordinary fit:

* "best of six": six ordinary fits, the best by validation: what the epochs of the search could have bought,
* "train ∪ val": an ordinary fit on training and validation data, for as many epochs as validation chose,
* class-balanced sampling, focal loss, GroupDRO over the classes,
* leaving out the samples of the highest loss, or of the lowest total influence,
* PARETO-LP-GA as published, and the search of ``ParetoTuner``.

Prints, for every case, the change of the mean and of the worst class, how many classes rose and fell significantly, and
the epochs spent. Finished seeds are kept in ``--out`` and not run again. The figures in the README took an hour and a
half on one core.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F

from lightning_pareto import ClasswiseComparison, ParetoCallback, ParetoTuner, ReweightedDataModule

sys.path.append(str(Path(__file__).parents[1]))  # the other examples
from main_job import Classifier, Images, Job, Split, classwise_accuracy, fit_joined, quiet, trainer_for
from second_fit_cases import Case, cases

ORDINARY, JOINED, SIX = "ordinary", "train ∪ val", "best of six"
PARETO, PAPER = "ParetoTuner", "PARETO-LP-GA"
SEARCH = 6  # whole fits that a search may spend


class Focal(Classifier):
    """Focal loss with γ = 2."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return ((1 - (-loss).exp()) ** 2 * loss).mean()


class GroupDro(Classifier):
    """Distributionally robust optimisation over the classes (Sagawa et al. 2020, arXiv:1911.08731), step 0.01."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        logits, y = self(batch[0]), batch[1]
        loss, classes = F.cross_entropy(logits, y, reduction="none"), logits.shape[1]
        counts = torch.bincount(y, minlength=classes)
        means = torch.zeros(classes).index_add(0, y, loss) / counts.clamp(min=1)
        if not hasattr(self, "shares"):
            self.shares = torch.full((classes,), 1 / classes)
        self.shares = self.shares * (0.01 * means.detach()).exp()
        self.shares = self.shares / self.shares.sum()
        return (self.shares * means).sum()


def start(kind: type[Classifier], job: Job, seed: int) -> Classifier:
    pl.seed_everything(seed, verbose=False)
    return kind(job.network(), job.lr)


def fit(model: Classifier, job: Job, data: pl.LightningDataModule, seed: int) -> tuple[Classifier, float, int]:
    """The model at its best epoch by validation, its mean validation accuracy there, and that epoch."""
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_accuracy_macro", mode="max", save_on_train_epoch_end=True)
        trainer = trainer_for(job, folder, ParetoCallback(analyse=False), best)
        pl.seed_everything(seed, verbose=False, workers=True)
        trainer.fit(model, datamodule=data)
        checkpoint = torch.load(best.best_model_path, weights_only=True)
        score = best.best_model_score
    model.load_state_dict(checkpoint["state_dict"])
    return model, float("nan") if score is None else float(score), int(checkpoint["epoch"]) + 1


def tune(model: Classifier, job: Job, data: Images, seed: int, names: list[str], **options: Any) -> dict[str, Any]:
    """Run a search on the model; returns what it spent and decided."""
    callback = ParetoCallback(class_names=names, verbose=False, budget=job.budget)
    with tempfile.TemporaryDirectory() as folder:
        tuner = ParetoTuner(
            lambda: trainer_for(job, folder),
            dirpath=folder,
            seed=seed,
            callback=callback,
            max_epochs_spent=SEARCH * job.epochs,
            verbose=False,
            **options,
        )
        result = tuner.fit(model, data)
    assert tuner.verdict is not None
    assert tuner.influence is not None
    return {
        "accepted": result.accepted,
        "epochs": result.epochs_spent,
        "verdict": tuner.verdict.answer,
        "gain": [result.gain, result.gain_error],
        "influence": tuner.influence.total(),
    }


def without(count: int, harm: np.ndarray) -> np.ndarray:
    """Weights that leave out the samples of the largest harm and keep the length of an epoch."""
    weights = np.ones(len(harm))
    weights[np.argsort(-harm)[:count]] = 0
    scaled: np.ndarray = weights * len(harm) / weights.sum()
    return scaled


@torch.no_grad()
def losses(model: Classifier, split: Split) -> np.ndarray:
    model.eval()
    x, y = split.train.tensors
    parts = [F.cross_entropy(model(a), b, reduction="none") for a, b in zip(x.split(1000), y.split(1000), strict=True)]
    return np.asarray(torch.cat(parts))


def run_seed(case: Case, seed: int) -> dict[str, Any]:
    """Test accuracy of every arm, (K,), and what the searches said."""
    job, split = case.job, case.split(seed)
    data, second = Images(split.train, split.val, job.batch_size), 1000 + seed
    names, y = split.class_names, split.train.tensors[1].numpy()
    arms: dict[str, Classifier] = {}
    arms[ORDINARY], score, epochs = fit(start(Classifier, job, second), job, data, second)
    others = [
        fit(start(Classifier, job, 10_000 * i + second), job, data, 10_000 * i + second) for i in range(1, SEARCH)
    ]
    arms[SIX] = max([(score, 0, arms[ORDINARY]), *((s, i, m) for i, (m, s, _) in enumerate(others, 1))])[2]
    arms[JOINED] = fit_joined(job, split, second, epochs)

    arms[PARETO], arms[PAPER] = start(Classifier, job, second), start(Classifier, job, second)
    found = tune(arms[PARETO], job, data, second, names)
    paper = tune(arms[PAPER], job, data, second, names, search="genetic")

    balanced: np.ndarray = len(y) / len(np.unique(y)) / np.bincount(y, minlength=len(names)).clip(min=1)[y]
    count = int(job.budget * len(y))
    weighted = {
        "class-balanced": balanced,
        "without high loss": without(count, losses(arms[ORDINARY], split)),
        "without low influence": without(count, -found.pop("influence")),
    }
    paper.pop("influence")
    for name, weights in weighted.items():
        reweighted = ReweightedDataModule(data, weights, seed=second)
        arms[name] = fit(start(Classifier, job, second), job, reweighted, second)[0]
    for name, kind in (("focal loss", Focal), ("GroupDRO", GroupDro)):
        arms[name] = fit(start(kind, job, second), job, data, second)[0]
    accuracy = {name: classwise_accuracy(model, split.test, len(names)).tolist() for name, model in arms.items()}
    return {"accuracy": accuracy, PARETO: found, PAPER: paper, "classes": names, "epochs": job.epochs}


def report(name: str, results: list[dict[str, Any]]) -> None:
    arms = list(results[0]["accuracy"])
    accuracy = {arm: np.array([result["accuracy"][arm] for result in results]) for arm in arms}
    comparison = ClasswiseComparison(accuracy, results[0]["classes"], baseline=ORDINARY)
    seeds, whole = len(results), results[0]["epochs"]
    spent = {SIX: SEARCH * whole} | {arm: int(np.mean([r[arm]["epochs"] for r in results])) for arm in (PARETO, PAPER)}
    ordinary = 100 * accuracy[ORDINARY].mean(axis=0)
    print(
        f"\n{name}: {seeds} seeds; ordinary fit {ordinary.mean():.1f} % in the mean, worst class {ordinary.min():.1f} %"
    )
    print(f"  {'':<22}  mean change     worst class     rose  fell  epochs")
    for arm in arms[1:]:
        change = 100 * comparison.change(arm)
        worst = 100 * (accuracy[arm].min(axis=1) - accuracy[ORDINARY].min(axis=1))
        mean, weak = (f"{v.mean():+6.2f} ± {v.std(ddof=1) / seeds**0.5:4.2f}" for v in (change.mean(axis=1), worst))
        rose, fell = len(comparison.gained(arm)), len(comparison.lost(arm))
        print(f"  {arm:<22}  {mean}   {weak}   {rose:4d}  {fell:4d}  {spent.get(arm, whole):6d}")
    for arm in (PARETO, PAPER):
        answers = [result[arm]["verdict"] for result in results]
        accepted = sum(result[arm]["accepted"] for result in results)
        gains = np.array([result[arm]["gain"][0] for result in results])
        print(f"  {arm}: accepted {accepted} of {seeds}, measured gain {100 * gains.mean():+.2f}; verdicts {answers}")


def run(name: str, make: Callable[[], Case], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All seeds of a case, those that are on disk not again."""
    case: Case | None = None
    results = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        path = options.out / f"{name.replace(' ', '_').replace('%', 'percent')}_{seed}.json"
        if not path.exists():
            case = case or make()
            result = run_seed(case, seed)
            options.out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result))
        results.append(json.loads(path.read_text()))
        means = {arm: f"{100 * np.mean(values):.1f}" for arm, values in results[-1]["accuracy"].items()}
        print(f"{name}, seed {seed}: {means}", flush=True)
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
