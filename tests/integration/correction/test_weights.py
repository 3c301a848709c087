"""Weights for a rerun, and what they leave the categories that did not fall."""

import numpy as np
import pytest

from lightning_pareto import InfluenceMatrix
from lightning_pareto.integration.correction.weights import CorrectiveWeights, floors_of_others


@pytest.fixture
def influence():
    """An ordinary epoch harms the first category and helps the second; a third of the samples does so most."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60, 3)) + np.array([-0.5, 0.3, 0.0])
    scores[:20] += [-2, 1.0, 0]
    return InfluenceMatrix(scores, np.arange(60) % 3)


def solved(matrix, **options):
    options = {"budget": 0.3, "keep": 0.0, "method": "mass_preserving", "return_mass": "additive", **options}
    return CorrectiveWeights(**options).solve(matrix, [0])


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_others_keep_their_share_of_what_an_ordinary_epoch_gives_them(influence, keep):
    weights = solved(influence, keep=keep)
    ordinary = influence.scores.mean(axis=0)
    weighted = (weights.values[:, None] * influence.scores).mean(axis=0)
    assert weighted[0] > ordinary[0]
    for k in (1, 2):
        assert weighted[k] >= min(keep * ordinary[k], ordinary[k]) - 1e-9
    assert keep == 1.0 or weighted[1] < ordinary[1] - 1e-3, "the floor of the second is needed"


def test_paper_takes_the_share_as_its_threshold(influence):
    weights = solved(influence, keep=0.9, method="paper")
    weighted = (weights.values[:, None] * influence.scores).sum(axis=0)
    assert (weighted >= 0.9 * influence.scores.sum(axis=0) - 1e-3).all()
    assert weights.metadata["method"] == "paper"


def test_a_category_that_an_ordinary_epoch_harms_must_not_lose_more(influence):
    floors = floors_of_others(influence, [1], 0.0)
    assert floors[0] == 0
    assert floors[1] == 0
    gain = influence.scores[:, 2].mean()
    assert floors[2] == pytest.approx(min(-gain / np.abs(influence.scores[:, 2]).mean(), 0))


def test_a_category_without_validation_samples_has_no_floor(influence):
    scores = influence.scores.copy()
    scores[:, 2] = np.nan
    matrix = InfluenceMatrix(scores, influence.labels)
    assert floors_of_others(matrix, [0], 0.5)[2] == 0
    assert solved(matrix).values.shape == (60,)
