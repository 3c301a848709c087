"""Result objects of any size, with or without categories that have no validation samples."""

import functools

import numpy as np

from lightning_pareto import InfluenceMatrix, Outcome, ParetoResult, check_pareto, reweight
from lightning_pareto.evaluation.result import Attempt, TrialSummary


def influence(k=3, n=120, absent=(), names=None, folds=4, seed=0, drift=-0.05):
    """Each sample helps its own category most, and a fifth of them harm all. The drift is that of a converged model."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    scores = 0.3 * rng.normal(size=(n, k))
    scores[np.arange(n), labels] += 1
    scores[rng.random(n) < 0.2] -= 0.8
    scores += drift - scores.mean(axis=0)
    parts = scores + 0.2 * rng.normal(size=(folds, n, k))
    support, fold_support = np.full(k, 60), np.full((folds, k), 60 // folds)
    for category in absent:
        scores[:, category] = parts[:, :, category] = np.nan
        support[category] = fold_support[:, category] = 0
    return InfluenceMatrix(
        scores,
        labels,
        names or [f"class {i}" for i in range(k)],
        support=support,
        fold_scores=parts,
        fold_support=fold_support,
        predicted=rng.integers(0, k, n),
        metadata={"options": {"curvature": "ekfac", "damping": 0.1, "folds": folds, "measure": "loss"}},
    )


def result(matrix, seed=0, accepted=True, trials=((15, 0.8, 0.6), (0, 0.8, 0.6), (1, 0.7, 0.3), (15, 0.9, 0.7))):
    rng = np.random.default_rng(seed)
    k = len(matrix.category_names)
    before = np.where(matrix.present, rng.integers(30, 50, k) / 60, np.nan)
    after = np.where(matrix.present, rng.integers(35, 55, k) / 60, np.nan)
    return ParetoResult(
        category_names=matrix.category_names,
        before=before,
        after=after,
        support=matrix.support,
        p_values=rng.uniform(size=k),
        refused=np.full(k, np.nan) if accepted else after - 0.125,
        gain=0.031,
        gain_error=0.012,
        accepted=accepted,
        reason="The mean accuracy changes by +3.1 ± 1.2 points. No category falls beyond chance.",
        weights=reweight(matrix) if accepted else None,
        ckpt_path="/runs/best.ckpt",
        best_epoch=9,
        epochs_spent=sum(trial[0] for trial in trials),
        trials=tuple(TrialSummary(f"trial {i}", *trial) for i, trial in enumerate(trials)),
        ordinary=before,
        attempts=(
            attempt("steps", after - before, returned=accepted),
            attempt("a fit with weights (budget 0.2)", before - after, harmed=[0]),
        ),
    )


def attempt(name, change, harmed=(), returned=False):
    low, high = change - 0.05, change + 0.05
    falls = np.isin(np.arange(len(change)), harmed)
    return Attempt(name, change, low, high, falls, float(np.nanmean(change)), 0.01, float(np.nanmin(change)), returned)


def outcomes(k=3, absent=(), names=None, each=60, seed=0):
    """Predictions before and after a small step, which mends a third of the mistakes."""
    rng = np.random.default_rng(seed)
    present = [label for label in range(k) if label not in absent]
    labels = np.repeat(present, each)
    predicted = np.where(rng.random(len(labels)) < 0.7, labels, (labels + 1) % k)
    mended = np.where(rng.random(len(labels)) < 1 / 3, labels, predicted)
    names = names or [f"class {i}" for i in range(k)]
    return tuple(Outcome.of(labels, found, names) for found in (predicted, mended))


def everything(k=3, n=120, absent=(), names=None):
    """An influence matrix with verdict, weights and result; the same objects for the same arguments."""
    return _everything(k, n, tuple(absent), None if names is None else tuple(names))


@functools.cache
def _everything(k, n, absent, names):
    matrix = influence(k, n, absent, names)
    return matrix, check_pareto(matrix), reweight(matrix), result(matrix)
