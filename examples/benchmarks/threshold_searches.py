"""Does the paper's genetic search over the thresholds of its LP beat random and grid search with the same epochs?

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/threshold_searches.py

Uses digits with 30 % of the labels wrong. The targets are the classes below the mean. All searches start from the same
checkpoint and train candidates for one epoch each, ``--epochs`` in total. The best weights of a search then give the
epoch that is compared with the ordinary next epoch, on test samples that no decision used.

Two more arms need no search: mass-preserving weights, and class weights by the errors of the classes. At the end, all
arms continue for ``--after`` ordinary epochs, to show whether a gain lasts. Takes about five minutes on one core.
"""

import argparse
import itertools
import math
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch

from lightning_pareto import ParetoCallback
from lightning_pareto.integration.tuner.options import TuningOptions
from lightning_pareto.integration.tuner.project import Project
from lightning_pareto.integration.tuner.search import Finalist, Situation, mass_preserving, search_thresholds
from lightning_pareto.integration.tuner.starting_model import find_starting_model, situation_of
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trials import Trials
from lightning_pareto.reweighting import SampleWeights
from lightning_pareto.reweighting.genetic_search import GeneticSearch, ThresholdSearch

sys.path.append(str(Path(__file__).parents[1]))  # the other examples
from main_job import Classifier, Images, Split, classwise_accuracy, quiet
from quickstart import digits, network

ORDINARY, CLASSES = "ordinary epoch", "class weights"
SEARCHES = ("genetic", "random", "grid", "mass_preserving")
FIRST_EPOCHS = 8


class ConstantRate(Classifier):
    """Has a constant learning rate, so that any number of epochs can follow."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class RandomThresholds:
    """Proposes uniformly random thresholds."""

    def __init__(self, categories: int, population: int, seed: int) -> None:
        self._shape = population, categories
        self._rng = np.random.default_rng(seed)

    def ask(self) -> list[np.ndarray]:
        return list(self._rng.uniform(size=self._shape))

    def tell(self, thresholds: Sequence[np.ndarray], fitness: Sequence[float]) -> None:
        """Ignore the fitness."""


class GridThresholds:
    """Proposes the points of ever finer grids in random order: 2 levels per category, then 3, 5, 9, and so on.

    A grid of more than 4,096 points is sampled instead.
    """

    def __init__(self, categories: int, population: int, seed: int) -> None:
        self._categories, self._population = categories, population
        self._rng = np.random.default_rng(seed)
        self._intervals = 1
        self._queue: list[np.ndarray] = []

    def ask(self) -> list[np.ndarray]:
        while len(self._queue) < self._population:
            self._queue += self._grid(np.linspace(0, 1, self._intervals + 1))
            self._intervals *= 2
        generation, self._queue = self._queue[: self._population], self._queue[self._population :]
        return generation

    def tell(self, thresholds: Sequence[np.ndarray], fitness: Sequence[float]) -> None:
        """Ignore the fitness."""

    def _grid(self, levels: np.ndarray) -> list[np.ndarray]:
        if math.log2(len(levels)) * self._categories > 12:
            return list(self._rng.choice(levels, size=(4 * self._population, self._categories)))
        points = np.array(list(itertools.product(levels, repeat=self._categories)))
        return list(self._rng.permutation(points))


def finalists(name: str, situation: Situation, trials: Trials, seed: int, epochs: int) -> list[Finalist]:
    options = TuningOptions(seed=seed)
    if name == "mass_preserving":
        return mass_preserving(options, situation)
    categories = int(situation.halves[0].influence.present.sum())
    kinds = {"genetic": GeneticSearch, "random": RandomThresholds, "grid": GridThresholds}
    thresholds: ThresholdSearch = kinds[name](categories, options.population, seed)
    return search_thresholds(thresholds, options, situation, trials, epochs)


def weights_of(search: str, situation: Situation, trials: Trials, seed: int, epochs: int) -> SampleWeights | None:
    """The best weights that a search finds. None for the ordinary epoch, or if the search finds nothing."""
    if search == ORDINARY:
        return None
    half = situation.halves[0]
    if search == CLASSES:
        assert half.accuracy is not None
        values = (1.02 - half.accuracy[half.influence.labels]) ** 0.5
        return SampleWeights(values / values.mean())
    found = finalists(search, situation, trials, seed, epochs)
    return found[0].fits[0][0] if found else None


def test_accuracy(trials: Trials, trial: Trial, split: Split) -> np.ndarray:
    model = ConstantRate(network(), 0.0)
    path = trials.run(trial).checkpoint
    assert path is not None
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return classwise_accuracy(model, split.test, 10)


@dataclass(frozen=True)
class Arm:
    """The result of a search.

    Attributes:
        accuracy: test accuracies after the weighted epoch, and after the ordinary epochs that follow, (K,) each.
        epochs: epochs of the search.
        found: whether it found any weights.
    """

    accuracy: tuple[np.ndarray, np.ndarray]
    epochs: int
    found: bool


def run_seed(seed: int, options: argparse.Namespace) -> tuple[dict[str, Arm], np.ndarray]:
    """Run all searches from the same checkpoint. Returns their results and which classes were the targets."""
    split = digits(seed, noise=0.3)
    pl.seed_everything(seed, verbose=False)
    callback, arms = ParetoCallback(class_names=split.class_names, verbose=False), {}
    with tempfile.TemporaryDirectory() as folder:
        project = Project(
            trainer_factory=lambda: pl.Trainer(max_epochs=FIRST_EPOCHS, accelerator="cpu", enable_progress_bar=False),
            module=ConstantRate(network(), 3e-3),
            datamodule=Images(split.train, split.val, batch_size=64),
            callback=callback,
            seed=seed,
        )
        trials = Trials(project, Path(folder))
        paper = TuningOptions(search="genetic")
        situation = situation_of(trials, paper, find_starting_model(trials, paper, None), callback)
        for search in (ORDINARY, CLASSES, *SEARCHES):
            before = trials.epochs_spent
            weights = weights_of(search, situation, trials, seed, options.epochs)
            spent = trials.epochs_spent - before
            epoch = situation.epoch("weighted epoch", weights, keeps=True)
            path = trials.run(epoch).checkpoint
            later = Trial("ordinary epochs", "checkpoint", options.after, checkpoint=path, keeps=True)
            accuracy = test_accuracy(trials, epoch, split), test_accuracy(trials, later, split)
            arms[search] = Arm(accuracy, spent, weights is not None)
    return arms, situation.targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of each search")
    parser.add_argument("--after", type=int, default=4, help="ordinary epochs after the weighted one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    warnings.simplefilter("ignore")
    runs = [run_seed(seed, options) for seed in range(options.seeds)]
    print(f"{'':<15}  found  epochs  targets, others: after the epoch    after {options.after} more ordinary epochs")
    for search in (CLASSES, *SEARCHES):
        cells = []
        for moment, wanted in ((0, True), (0, False), (1, True), (1, False)):
            changes = [
                100 * float((arms[search].accuracy[moment] - arms[ORDINARY].accuracy[moment])[targets == wanted].mean())
                for arms, targets in runs
            ]
            cells.append(f"{np.mean(changes):+5.2f} ± {np.std(changes, ddof=1) / len(runs) ** 0.5:4.2f}")
        found = np.mean([arms[search].found for arms, _ in runs])
        spent = np.mean([arms[search].epochs for arms, _ in runs])
        print(f"{search:<15}  {found:5.0%}  {spent:6.1f}  {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
