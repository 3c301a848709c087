"""The halves of the validation set."""

from pathlib import Path

import numpy as np
import torch

from lightning_pareto import InfluenceMatrix
from lightning_pareto.influence.categories import deal_folds
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.integration.tuner.steps import Analysis, _halves
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.reweighting.outcomes import Outcome

FOLDS, SEED = 4, 5


def test_a_half_judges_only_what_its_weights_do_not_know():
    """Every fold's influence is its own number, so that the average says which folds it is made of."""
    rng = np.random.default_rng(0)
    category = rng.integers(2, size=90)
    fold = deal_folds(torch.from_numpy(category), FOLDS, SEED).numpy()
    support = np.array([[((fold == f) & (category == k)).sum() for k in range(2)] for f in range(FOLDS)])
    scores = np.ones((FOLDS, 6, 2)) * 10.0 ** np.arange(FOLDS)[:, None, None]
    matrix = InfluenceMatrix(scores.mean(axis=0), np.arange(6) % 2, fold_scores=scores, fold_support=support)
    at = Outcome(category, rng.uniform(size=90) < 0.5, rng.uniform(size=90), ("0", "1"))
    analysis = Analysis(TrialResult("given", at, 1, 1, np.zeros(1)), Path("x.ckpt"), at, {"loss": matrix})
    halves = _halves(analysis, InfluenceOptions(folds=FOLDS, seed=SEED), classes=True)
    for parity, half in enumerate(halves):
        known = fold % 2 == parity
        np.testing.assert_array_equal(half.unseen, ~known)
        np.testing.assert_array_equal(half.accuracy, at.on(known).accuracy)
        for k in range(2):
            expected = np.mean(10.0 ** fold[known & (category == k)])
            np.testing.assert_allclose(half.influences["loss"].scores[:, k], expected, rtol=1e-6)
    assert _halves(analysis, InfluenceOptions(folds=FOLDS, seed=SEED), classes=False)[0].accuracy is None
