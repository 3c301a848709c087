"""Tests of averaged influence matrices."""

import numpy as np
import pytest

from lightning_pareto import InfluenceMatrix, average_influence, check_pareto


def matrix(seed, scale=1.0, **options):
    rng = np.random.default_rng(seed)
    folds = rng.normal(size=(4, 20, 3)).astype(np.float32) * scale
    support = np.full((4, 3), 5)
    given = {"labels": np.arange(20) % 3, "support": support.sum(0), "fold_scores": folds, "fold_support": support}
    return InfluenceMatrix(folds.mean(axis=0), **{**given, "metadata": {"checkpoint": seed}, **options})


def test_all_matrices_count_equally_at_any_scale():
    equal, scaled = average_influence([matrix(0), matrix(1)]), average_influence([matrix(0), matrix(1, scale=100.0)])
    ratio = scaled.scores / equal.scores
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-4)
    assert np.corrcoef(equal.scores[:, 0], matrix(0).scores[:, 0])[0, 1] > 0.5
    assert equal.metadata["checkpoint"] == [0, 1]


def test_one_matrix_is_its_own_average():
    found = average_influence([matrix(3)])
    np.testing.assert_allclose(found.scores, matrix(3).scores, rtol=1e-6)
    np.testing.assert_allclose(found.fold_scores, matrix(3).fold_scores, rtol=1e-6)


def test_average_of_copies_is_the_original():
    found = average_influence([matrix(3), matrix(3), matrix(3)])
    np.testing.assert_allclose(found.scores, matrix(3).scores, rtol=1e-5)
    np.testing.assert_allclose(found.fold_scores, matrix(3).fold_scores, rtol=1e-5)


def test_folds_average_like_the_scores():
    found = average_influence([matrix(0), matrix(1, scale=7.0), matrix(2)])
    np.testing.assert_allclose(found.fold_scores.mean(axis=0), found.scores, rtol=1e-4, atol=1e-6)
    assert check_pareto(found).answer in ("yes", "not proven")


def test_absent_category_stays_absent():
    absent = [matrix(seed) for seed in range(2)]
    for m in absent:
        m.scores[:, 1] = np.nan
    assert average_influence(absent).present.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (matrix(1, labels=np.zeros(20, dtype=int)), "matrix 1 has other training labels"),
        (matrix(1, category_names=["a", "b", "c"]), "other category names"),
        (matrix(1, support=np.array([20, 20, 19])), "other validation support"),
        (matrix(1, fold_support=np.full((4, 3), 6)), "other folds"),
    ],
)
def test_refuses_matrices_of_other_data(other, message):
    with pytest.raises(ValueError, match=message):
        average_influence([matrix(0), other])


def test_refuses_an_empty_list():
    with pytest.raises(ValueError, match="at least one"):
        average_influence([])
