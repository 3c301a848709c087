"""The paper's genetic algorithm against a random and a grid search over its thresholds, at the same epochs.

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/threshold_searches.py

Digits with 30 % of the labels wrong, targets the classes below the mean. From one checkpoint each search trains
``--epochs`` candidates for one epoch; its best weights give the epoch that is measured on a test part that no decision
saw, against the ordinary next epoch. The screening of mass-preserving weights has as many epochs, and class weights by
the errors of the classes are a search of nothing. Then all go on for ``--after`` ordinary epochs: does a gain last?
Expected in about five minutes on one core.
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
from lightning_pareto.integration.tuner.search import PaperSearch, ScreeningSearch, Search, Situation
from lightning_pareto.integration.tuner.starting_model import find_starting_model, situation_of
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trials import Project, Trials
from lightning_pareto.reweighting import SampleWeights
from lightning_pareto.reweighting.genetic_search import GeneticSearch, ThresholdSearch
from lightning_pareto.reweighting.proposals import Proposal, ProposalSolver

sys.path.append(str(Path(__file__).parents[1]))  # the other examples
from main_job import Classifier, Images, Split, classwise_accuracy, quiet
from quickstart import digits, network

ORDINARY, CLASSES = "ordinary epoch", "class weights"
SEARCHES = ("genetic", "random", "grid", "screening")
FIRST_EPOCHS = 8


class Constant(Classifier):
    """A constant learning rate, so that epochs can follow without end."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class RandomThresholds:
    """Uniform thresholds, generation by generation."""

    def __init__(self, categories: int, population: int, seed: int) -> None:
        self._shape = population, categories
        self._rng = np.random.default_rng(seed)

    def ask(self) -> list[np.ndarray]:
        return list(self._rng.uniform(size=self._shape))

    def tell(self, thresholds: Sequence[np.ndarray], fitness: Sequence[float]) -> None:
        """Learn nothing."""


class GridThresholds:
    """Ever finer grids in random order: 2 levels for every category, then 3, 5, 9, and so on.

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
        """Learn nothing."""

    def _grid(self, levels: np.ndarray) -> list[np.ndarray]:
        if math.log2(len(levels)) * self._categories > 12:
            return list(self._rng.choice(levels, size=(4 * self._population, self._categories)))
        points = np.array(list(itertools.product(levels, repeat=self._categories)))
        return list(self._rng.permutation(points))


def search_called(name: str, situation: Situation, seed: int) -> Search:
    options = TuningOptions(seed=seed)
    if name == "screening":
        return ScreeningSearch(options.measures, options.budgets)
    categories = int(situation.halves[0].influences["loss"].present.sum())
    kinds = {"genetic": GeneticSearch, "random": RandomThresholds, "grid": GridThresholds}
    thresholds: ThresholdSearch = kinds[name](categories, options.population, seed)
    return PaperSearch(thresholds, options.max_weight, options.epsilon)


def weights_of(search: str, situation: Situation, trials: Trials, seed: int, epochs: int) -> SampleWeights | None:
    """The best weights that a search finds; None for the ordinary epoch, or if it finds nothing."""
    if search == ORDINARY:
        return None
    half = situation.halves[0]
    if search == CLASSES:
        maker = ProposalSolver(half.influences, situation.targets, half.accuracy)
        return maker.weights(Proposal("loss", 0.0, 0.0, "additive", 0.5))
    found = search_called(search, situation, seed).find(situation, trials, epochs)
    return found[0].fits[0][0] if found else None


def test_accuracy(trials: Trials, trial: Trial, split: Split) -> np.ndarray:
    model = Constant(network(), 0.0)
    path = trials.run(trial).checkpoint
    assert path is not None
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return classwise_accuracy(model, split.test, 10)


@dataclass(frozen=True)
class Arm:
    """Test accuracy after the weighted epoch and after the ordinary ones that follow, and what it took."""

    accuracy: tuple[np.ndarray, np.ndarray]
    epochs: int
    found: bool


def run_seed(seed: int, options: argparse.Namespace) -> tuple[dict[str, Arm], np.ndarray]:
    """Every search from the same checkpoint, and which classes were the targets."""
    split = digits(seed, noise=0.3)
    pl.seed_everything(seed, verbose=False)
    callback, arms = ParetoCallback(class_names=split.class_names, verbose=False), {}
    with tempfile.TemporaryDirectory() as folder:
        project = Project(
            trainer_factory=lambda: pl.Trainer(max_epochs=FIRST_EPOCHS, accelerator="cpu", enable_progress_bar=False),
            module=Constant(network(), 3e-3),
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
    parser.add_argument("--epochs", type=int, default=40, help="epochs of every search")
    parser.add_argument("--after", type=int, default=4, help="ordinary epochs that follow")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    warnings.simplefilter("ignore")
    runs = [run_seed(seed, options) for seed in range(options.seeds)]
    print(f"{'':<15}  found  epochs  targets, others: after the epoch    after {options.after} ordinary epochs more")
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
