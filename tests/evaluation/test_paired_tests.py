"""Tests of two models on the same validation samples, against brute force and scipy."""

import itertools

import numpy as np
import pytest
from scipy import stats

from lightning_pareto.evaluation.paired_tests import holm, sign_test, unpaired_test


@pytest.mark.parametrize("worse", range(5))
def test_sign_test_is_the_share_of_all_coin_tosses(worse):
    """Of four samples on which the models differ, `worse` were lost: count the outcomes of four coins."""
    tosses = [sum(toss) for toss in itertools.product((0, 1), repeat=4)]
    found = sign_test(np.array([worse, 0]), np.array([4 - worse, 0]))
    assert found[0] == pytest.approx(np.mean([heads >= worse for heads in tosses]))
    assert found[1] == 1.0, "nothing differs"


def test_sign_test_agrees_with_scipy():
    lost, won = np.arange(20), np.arange(20)[::-1]
    expected = [stats.binomtest(a, a + b, 0.5, alternative="greater").pvalue for a, b in zip(lost, won, strict=True)]
    np.testing.assert_allclose(sign_test(lost, won), expected)


def test_unpaired_test_is_fishers():
    before, after = np.array([[18, 20], [10, 10], [5, 12]]), np.array([[9, 20], [9, 10], [7, 9]])
    tables = [[[h2, n2 - h2], [h1, n1 - h1]] for (h1, n1), (h2, n2) in zip(before, after, strict=True)]
    expected = [stats.fisher_exact(table, alternative="less").pvalue for table in tables]
    np.testing.assert_allclose(unpaired_test(*before.T, *after.T), expected)


def rejected_by_closed_testing(p_values, level):
    """A hypothesis is rejected if Bonferroni rejects every set of hypotheses that it belongs to."""
    count = len(p_values)
    sets = [each for size in range(1, count + 1) for each in itertools.combinations(range(count), size)]
    passed = {each: min(p_values[i] for i in each) * len(each) <= level for each in sets}
    return [all(passed[each] for each in sets if i in each) for i in range(count)]


@pytest.mark.parametrize("count", range(1, 7))
def test_holm_is_closed_testing_by_bonferroni(count):
    rng = np.random.default_rng(count)
    rejections = 0
    for _ in range(200):
        p_values = rng.choice([0.0, 0.004, 0.01, 0.0125, 0.02, 0.05, 0.3, 1.0], size=count)
        found = holm(p_values, 0.05)
        assert found.tolist() == rejected_by_closed_testing(p_values, 0.05)
        rejections += found.sum()
    assert 0 < rejections < 200 * count


def test_holm_multiplies_by_the_hypotheses_that_are_left():
    assert holm(np.array([0.02, 0.04, 0.016]), 0.05).tolist() == [True, True, True]
    assert holm(np.array([0.02, 0.04, 0.017]), 0.05).tolist() == [False, False, False]
    assert holm(np.array([0.026, 0.04, 0.01]), 0.05).tolist() == [False, False, True]
    assert holm(np.array([]), 0.05).tolist() == []


def test_holm_keeps_the_family_wise_level():
    rng = np.random.default_rng(0)
    families = np.mean([holm(rng.uniform(size=10), 0.05).any() for _ in range(4000)])
    assert families == pytest.approx(1 - (1 - 0.005) ** 10, abs=0.01)
