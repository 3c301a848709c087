"""The genetic algorithm of PARETO-LP-GA over the thresholds α ∈ [0, 1]^K of the paper's LP."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lightning_pareto.pareto.admissible import Float

ELITES = 2
TOURNAMENT = 3
MUTATION_RATE = 0.3
MUTATION_SCALE = 0.15


class ThresholdSearch(Protocol):
    """Proposes thresholds and learns how fit they were. It knows nothing of models or training."""

    def ask(self) -> list[Float]:
        """The next generation of thresholds, each (K,) in [0, 1]; empty if there is nothing left to try."""

    def tell(self, thresholds: Sequence[Float], fitness: Sequence[float]) -> None:
        """Report the fitness of the last generation.

        Args:
            thresholds: the generation that :meth:`ask` returned.
            fitness: one value each; larger is better, −∞ means no improvement at all.
        """


class GeneticSearch:
    """A :class:`ThresholdSearch` with tournament selection, uniform crossover, Gaussian mutation and elites.

    The first generation holds the constant thresholds 0.9 and random ones. Elites are proposed again, so a caller that
    caches fitness values can answer for them at no cost.

    Args:
        categories: K.
        population: number of thresholds in a generation, at least 2.
        seed: seed of all randomness.

    Raises:
        ValueError: if there is no category or the population is too small.

    Source: arXiv:2510.03950, Algorithm 1.
    """

    def __init__(self, categories: int, population: int = 8, seed: int = 0) -> None:
        if categories < 1 or population < 2:
            raise ValueError(
                f"a search needs at least one category and a population of 2, found {categories} and {population}"
            )
        self._categories = categories
        self._population = population
        self._rng = np.random.default_rng(seed)
        self._parents: list[tuple[float, Float]] = []  # sorted, the fittest first

    def ask(self) -> list[Float]:
        """See :class:`ThresholdSearch`."""
        if not self._parents:
            drawn = self._rng.uniform(size=(self._population - 1, self._categories))
            return [np.full(self._categories, 0.9), *drawn]
        elites = [alpha for _, alpha in self._parents[:ELITES]]
        return elites + [self._child() for _ in range(self._population - len(elites))]

    def tell(self, thresholds: Sequence[Float], fitness: Sequence[float]) -> None:
        """See :class:`ThresholdSearch`."""
        order = np.argsort([-f for f in fitness], kind="stable")
        self._parents = [(fitness[i], thresholds[i]) for i in order]

    def _child(self) -> Float:
        mother, father = self._selected(), self._selected()
        child = np.where(self._rng.uniform(size=self._categories) < 0.5, mother, father)
        mutated = self._rng.uniform(size=self._categories) < MUTATION_RATE
        noise = self._rng.normal(scale=MUTATION_SCALE, size=self._categories)
        inside: Float = np.clip(child + mutated * noise, 0, 1)
        return inside

    def _selected(self) -> Float:
        """The fittest of a few parents drawn at random."""
        fittest: Float = self._parents[self._rng.integers(len(self._parents), size=TOURNAMENT).min()][1]
        return fittest
