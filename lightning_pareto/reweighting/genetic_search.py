"""The genetic search of PARETO-LP-GA over the thresholds α ∈ [0, 1]^K of the paper's LP."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lightning_pareto.pareto.admissible import Float

ELITES = 2
TOURNAMENT = 3
MUTATION_RATE = 0.3
MUTATION_SCALE = 0.15


class ThresholdSearch(Protocol):
    """Proposes thresholds and learns from their fitness. It knows nothing about models or training."""

    def ask(self) -> list[Float]:
        """Return the next generation of thresholds, each (K,) in [0, 1]. It is empty if nothing is left to try."""

    def tell(self, thresholds: Sequence[Float], fitness: Sequence[float]) -> None:
        """Report the fitness of the last generation. Larger is better, and −∞ means no improvement at all."""


class GeneticSearch:
    """A :class:`ThresholdSearch` with tournament selection, uniform crossover, Gaussian mutation and elites.

    The first generation consists of the constant thresholds 0.9 and random ones. Elites are proposed again. Cache
    their fitness to avoid evaluating them twice.

    Args:
        categories: number of categories K.
        population: number of threshold vectors in a generation, at least 2.
        seed: random seed.

    Source: arXiv:2510.03950, Algorithm 1.
    """

    def __init__(self, categories: int, population: int = 8, seed: int = 0) -> None:
        self._categories = categories
        self._population = population
        self._rng = np.random.default_rng(seed)
        self._parents: list[Float] = []  # sorted by fitness, the best first

    def ask(self) -> list[Float]:
        """See :class:`ThresholdSearch`."""
        if not self._parents:
            drawn = self._rng.uniform(size=(self._population - 1, self._categories))
            return [np.full(self._categories, 0.9), *drawn]
        elites = self._parents[:ELITES]
        return elites + [self._child() for _ in range(self._population - len(elites))]

    def tell(self, thresholds: Sequence[Float], fitness: Sequence[float]) -> None:
        """See :class:`ThresholdSearch`."""
        order = np.argsort([-f for f in fitness], kind="stable")
        self._parents = [thresholds[i] for i in order]

    def _child(self) -> Float:
        first, second = self._select(), self._select()
        child = np.where(self._rng.uniform(size=self._categories) < 0.5, first, second)
        mutated = self._rng.uniform(size=self._categories) < MUTATION_RATE
        noise = self._rng.normal(scale=MUTATION_SCALE, size=self._categories)
        clipped: Float = np.clip(child + mutated * noise, 0, 1)
        return clipped

    def _select(self) -> Float:
        """Return the fittest of a few randomly drawn parents."""
        return self._parents[int(self._rng.integers(len(self._parents), size=TOURNAMENT).min())]
