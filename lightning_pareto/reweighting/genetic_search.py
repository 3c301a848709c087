"""Searches over the thresholds α ∈ [0, 1]^K of the paper's LP: the genetic algorithm, and what it should beat.

A search proposes thresholds and is told how fit each of them was; it knows nothing of models or training. Fitness is
maximised, and −∞ says that the thresholds gave no improvement at all.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from lightning_pareto.pareto.admissible import Float

ELITES = 2
TOURNAMENT = 3
MUTATION_RATE = 0.3
MUTATION_SCALE = 0.15


class ThresholdSearch(ABC):
    """Proposes generations of thresholds.

    Args:
        categories: K.
        population: thresholds of one generation.
        seed: of all that is random.
    """

    def __init__(self, categories: int, population: int = 8, seed: int = 0) -> None:
        if categories < 1 or population < 2:
            raise ValueError(
                f"a search takes a category and a population of 2 at least, found {categories}, {population}"
            )
        self.categories = categories
        self.population = population
        self.rng = np.random.default_rng(seed)

    @abstractmethod
    def ask(self) -> list[Float]:
        """The next generation, each (K,) in [0, 1]; empty when there is nothing more to try."""

    @abstractmethod
    def tell(self, thresholds: Sequence[Float], fitness: Sequence[float]) -> None:
        """Learn how fit the last generation was.

        Args:
            thresholds: as they were asked.
            fitness: of each, larger is better, −∞ for no improvement.
        """


class GeneticSearch(ThresholdSearch):
    """Tournament selection, uniform crossover, Gaussian mutation and elites that live on.

    The first generation holds the even thresholds 0.9 and random ones. Elites are proposed again, so that whoever
    evaluates them can answer from memory.

    Source: arXiv:2510.03950, Algorithm 1.
    """

    def __init__(self, categories: int, population: int = 8, seed: int = 0) -> None:
        super().__init__(categories, population, seed)
        self._parents: list[tuple[float, Float]] = []

    def ask(self) -> list[Float]:
        """See :class:`ThresholdSearch`."""
        if not self._parents:
            drawn = self.rng.uniform(size=(self.population - 1, self.categories))
            return [np.full(self.categories, 0.9), *drawn]
        elites = [alpha for _, alpha in self._parents[:ELITES]]
        return elites + [self._child() for _ in range(self.population - len(elites))]

    def tell(self, thresholds: Sequence[Float], fitness: Sequence[float]) -> None:
        """See :class:`ThresholdSearch`."""
        order = np.argsort([-f for f in fitness], kind="stable")
        self._parents = [(fitness[i], thresholds[i]) for i in order]

    def _child(self) -> Float:
        mother, father = self._selected(), self._selected()
        child = np.where(self.rng.uniform(size=self.categories) < 0.5, mother, father)
        mutated = self.rng.uniform(size=self.categories) < MUTATION_RATE
        noise = self.rng.normal(scale=MUTATION_SCALE, size=self.categories)
        inside: Float = np.clip(child + mutated * noise, 0, 1)
        return inside

    def _selected(self) -> Float:
        """The fittest of a few drawn at random; the parents are sorted."""
        fittest: Float = self._parents[self.rng.integers(len(self._parents), size=TOURNAMENT).min()][1]
        return fittest


class RandomSearch(ThresholdSearch):
    """Uniform thresholds, generation by generation."""

    def ask(self) -> list[Float]:
        """See :class:`ThresholdSearch`."""
        return list(self.rng.uniform(size=(self.population, self.categories)))

    def tell(self, thresholds: Sequence[Float], fitness: Sequence[float]) -> None:
        """Learn nothing."""


class GridSearch(ThresholdSearch):
    """Grids that grow finer: 2 levels for every category, then 3, 5, 9, …, each grid in a random order.

    Above 12 categories a whole grid is out of reach, and the same levels are drawn at random instead.
    """

    def __init__(self, categories: int, population: int = 8, seed: int = 0) -> None:
        super().__init__(categories, population, seed)
        self._intervals = 1
        self._queue: list[Float] = []

    def ask(self) -> list[Float]:
        """See :class:`ThresholdSearch`."""
        while len(self._queue) < self.population:
            self._queue += self._grid(np.linspace(0, 1, self._intervals + 1))
            self._intervals *= 2
        generation, self._queue = self._queue[: self.population], self._queue[self.population :]
        return generation

    def tell(self, thresholds: Sequence[Float], fitness: Sequence[float]) -> None:
        """Learn nothing."""

    def _grid(self, levels: Float) -> list[Float]:
        if math.log2(len(levels)) * self.categories > 12:
            return list(self.rng.choice(levels, size=(4 * self.population, self.categories)))
        points = np.array(list(itertools.product(levels, repeat=self.categories)))
        return list(self.rng.permutation(points))
