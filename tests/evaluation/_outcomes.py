"""Outcomes written by hand."""

import numpy as np

from lightning_pareto.evaluation.outcome import Outcome

NAMES = ("cat", "dog", "cow")


def outcome(correct, category=None, probability=None, names=NAMES):
    """Samples in any order; by default all are of the first category."""
    correct = np.asarray(correct, dtype=bool)
    category = np.zeros(len(correct), dtype=int) if category is None else np.asarray(category)
    return Outcome(category, correct, np.asarray(probability if probability is not None else correct, float), names)


def by_category(*correct, names=NAMES):
    """One list of predictions, right (1) or wrong (0), for each category."""
    category = np.repeat(np.arange(len(correct)), [len(part) for part in correct])
    return outcome(np.concatenate([np.asarray(part, dtype=bool) for part in correct]), category, names=names)


def reordered(found, seed=0):
    """The same samples in another order, as a shuffling loader reads them."""
    order = np.random.default_rng(seed).permutation(len(found.category))
    return outcome(found.correct[order], found.category[order], found.probability[order], found.category_names)


def random_pair(seed, size=300, shift=0.0):
    """Two models that agree on most samples of three categories; the second is better by about ``0.2 · shift``."""
    rng = np.random.default_rng(seed)
    category = rng.integers(3, size=size)
    before = rng.uniform(size=size) < 0.8
    after = np.where(rng.uniform(size=size) < 0.2, rng.uniform(size=size) < 0.8 + shift, before)
    return outcome(before, category), outcome(after, category)
