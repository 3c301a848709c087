"""The genetic search over thresholds."""

import numpy as np
import pytest

from lightning_pareto.reweighting.genetic_search import ELITES, GeneticSearch


def fitness(alpha):
    """A hill far from the start, with fitness −∞ on half of the cube."""
    return -float(((alpha - 0.2) ** 2).sum()) if alpha[0] < 0.5 else -np.inf


def best_of(search, generations):
    best = -np.inf
    for _ in range(generations):
        asked = search.ask()
        values = [fitness(alpha) for alpha in asked]
        search.tell(asked, values)
        best = max(best, *values)
    return best


@pytest.mark.parametrize("categories", [1, 3, 40])
def test_generations_are_valid_and_reproducible(categories):
    first, second = (GeneticSearch(categories, population=6, seed=3) for _ in range(2))
    for _ in range(4):
        asked, again = first.ask(), second.ask()
        assert len(asked) == 6
        assert all(alpha.shape == (categories,) and alpha.min() >= 0 and alpha.max() <= 1 for alpha in asked)
        np.testing.assert_array_equal(asked, again)
        for search in (first, second):
            search.tell(asked, [fitness(alpha) for alpha in asked])


def test_genetic_search_beats_random_thresholds():
    """Over 20 seeds and with the same number of evaluations, it ends closer to the top."""
    genetic = [best_of(GeneticSearch(6, 8, seed), 12) for seed in range(20)]
    drawn = [max(map(fitness, np.random.default_rng(seed).uniform(size=(8 * 12, 6)))) for seed in range(20)]
    assert np.median(genetic) > 0.5 * np.median(drawn)  # fitness is negative
    assert np.mean(np.array(genetic) > drawn) >= 0.8


def test_elites_are_proposed_again():
    search = GeneticSearch(4, population=8, seed=0)
    asked = search.ask()
    search.tell(asked, [fitness(alpha) for alpha in asked])
    best = sorted(asked, key=fitness, reverse=True)[:ELITES]
    np.testing.assert_array_equal(search.ask()[:ELITES], best)
