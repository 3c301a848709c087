"""Cross-fitting and its test: by hand, by their size, and on data with and without a gain."""

import numpy as np
import pytest
from scipy import stats

from lightning_pareto import InfluenceMatrix, check_pareto
from lightning_pareto.influence.gains import column_scale, predicted_gain
from lightning_pareto.pareto.admissible import AdmissibleSet
from lightning_pareto.pareto.demand import Demand
from lightning_pareto.pareto.headroom import headroom
from lightning_pareto.pareto.significance import _mean_and_variance, _test, _with_common_spread, cross_fit


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


def t2_tail(t):
    """P(T > t) of a t distribution with two degrees of freedom, in closed form."""
    return 0.5 - t / (2 * np.sqrt(2 + t**2))


def test_equal_folds_by_hand():
    """Deviations −1, 0, 1 from 2, each weighted by 1/3: squares 2/9, times 2F/(F − 2) = 6."""
    found = _test(column(1, 2, 3), column(70, 70, 70), np.zeros(1))
    assert found.mean[0] == pytest.approx(2)
    assert found.standard_error[0] == pytest.approx(np.sqrt(4 / 3))
    assert found.p_value == pytest.approx(t2_tail(np.sqrt(3)))
    assert found.p_value == pytest.approx(0.1127017)


def test_unequal_folds_by_hand():
    """Shares 1/2, 1/4, 1/4; odds 1, 1/3, 1/3.

    Variance of the mean: 1 + 1/3 + 1/3 + 2 (1/3 + 1/3 + 1/9) = 29/9. Its covariances with the folds: 5/3, 7/9, 7/9.
    Expected squares: 5/3 − 2 (5/6 + 7/36 + 7/36) + 3/8 · 29/9 = 31/72. Observed: (1/2)² + 0 + (1/2)² = 1/2.
    """
    found = _test(column(1, 2, 4), column(200, 100, 100), np.zeros(1))
    assert found.mean[0] == pytest.approx(2)
    assert found.standard_error[0] ** 2 == pytest.approx(1 / 2 * (29 / 9) / (31 / 72))
    assert found.p_value == pytest.approx(t2_tail(2 / np.sqrt(116 / 31)))


def test_each_category_uses_its_own_folds_and_the_least_certain_decides():
    gains = np.array([[1.0, 1.0], [2.0, np.nan], [3.0, 2.0], [2.0, 4.0]])
    support = 1000 * np.array([[5, 20], [5, 0], [5, 10], [5, 10]])  # so many that the common spread does not matter
    found = _test(gains, support, np.zeros(2))
    np.testing.assert_allclose(found.mean, [2, 2])
    np.testing.assert_allclose(found.standard_error, [np.sqrt(1 / 8 * 4), np.sqrt(116 / 31)])
    assert found.p_values[0] == pytest.approx(0.03313, abs=1e-5)  # t = √8 with 3 degrees of freedom
    assert found.p_values[1] == pytest.approx(t2_tail(2 / np.sqrt(116 / 31)))
    assert found.p_value == found.p_values[1]


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 1, 1, 1, 1, 1, 1, 1), (2, 2, 1, 1, 1), (5, 2, 1, 1)])
def test_standard_error_is_right_if_only_noise_was_fitted(sizes):
    """The weights are linear in the noise of the folds they were fitted to. 20,000 draws."""
    rng = np.random.default_rng(0)
    n, draws = np.array(sizes, dtype=float), 20_000
    noise = rng.normal(size=(len(n), draws, 5)) / np.sqrt(n)[:, None, None]
    total = np.einsum("f,frp->rp", n, noise)
    gains = np.stack(
        [((total - m * e) / (n.sum() - m) * e).sum(axis=1) for m, e in zip(n, noise, strict=True)]
    )  # (F, draws)
    mean, variance = _mean_and_variance(gains, np.repeat(n[:, None], draws, axis=1))
    assert variance.mean() == pytest.approx(mean.var(), rel=0.06)


def draw_folds(rng, signal, folds=5, samples=40, n=60, spread=1.0):
    """Fold scores as means of per-sample scores over the fold's share of each category.

    A fifth of the training samples harms each category by its signal. The rest of a per-sample score is noise.
    """
    categories = len(signal)
    harmful = rng.random(n) < 0.2
    scores, support = np.zeros((folds, n, categories)), np.zeros((folds, categories), dtype=int)
    for k, size in enumerate(signal):
        by_sample = -size * harmful + spread * rng.standard_t(5, size=(samples, n))
        fold = (rng.permutation(samples) + rng.integers(folds)) % folds
        for f in range(folds):
            support[f, k] = (fold == f).sum()
            scores[f, :, k] = by_sample[fold == f].mean(axis=0)
    return scores, support, rng.integers(0, categories, n)


def evaluate(scores, support, labels):
    whole = (scores * support[:, None, :]).sum(axis=0) / support.sum(axis=0)
    return cross_fit(scores, support, column_scale(whole), AdmissibleSet(labels, 0.2))


def rejections(signal, repetitions, **options):
    rng = np.random.default_rng(0)
    return np.mean([evaluate(*draw_folds(rng, signal, **options)).p_value <= 0.05 for _ in range(repetitions)])


@pytest.mark.slow
def test_keeps_its_level_if_exactly_one_category_does_not_gain():
    """The least favourable case. Standard errors for independent folds rejected 13.5 % of the same draws.

    The margin is three standard errors of a share of 0.05 in 600 repetitions, 2.7 %.
    """
    margin = 3 * np.sqrt(0.05 * 0.95 / 600)
    assert 0.01 <= rejections((0.0, 2.0, 2.0), 600, folds=8, samples=44) <= 0.05 + margin


def test_finds_a_gain_of_every_category():
    assert rejections((1.0, 1.0, 1.0), 50, folds=8) >= 0.9
    assert rejections((2.0, 2.0, 2.0), 50, folds=3) >= 0.9


def test_in_sample_gains_do_not_hold_out():
    """20 draws of pure noise. Weights fitted to all folds gain on these folds, weights fitted to the others do not."""
    rng = np.random.default_rng(0)
    in_sample, held_out = [], []
    for _ in range(20):
        scores, support, labels = draw_folds(rng, (0.0, 0.0, 0.0), n=200)
        whole = scores.mean(axis=0)
        scale, admissible = column_scale(whole), AdmissibleSet(labels, 0.2)
        weights = headroom(whole, scale, admissible).weights
        in_sample.append(
            _test(np.stack([predicted_gain(fold, weights) / scale for fold in scores]), support, np.zeros(3))
        )
        held_out.append(cross_fit(scores, support, scale, admissible))
    assert sum(found.p_value < 0.05 for found in in_sample) >= 18
    assert sum(found.p_value < 0.05 for found in held_out) <= 1
    assert np.median([found.p_value for found in held_out]) > 0.4
    assert np.mean([found.mean for found in held_out]) < np.mean([found.mean for found in in_sample]) / 10


def test_each_fold_is_evaluated_with_weights_that_never_saw_it():
    """A fold's scores do not affect the weights for it, so its gain is linear in them."""
    scores, support, labels = draw_folds(np.random.default_rng(1), (1.0, 1.0, 1.0))
    scale, admissible = np.ones(3), AdmissibleSet(labels, 0.2)
    doubled = scores.copy()
    doubled[2] *= -7
    before, after = (cross_fit(part, support, scale, admissible).by_fold for part in (scores, doubled))
    np.testing.assert_allclose(after[2], -7 * before[2], rtol=1e-9)
    assert np.abs(after[[0, 1, 3, 4]] - before[[0, 1, 3, 4]]).min() > 1e-6


def influence_of(scores, support, labels):
    whole = (scores * support[:, None, :]).sum(axis=0) / support.sum(axis=0)
    return InfluenceMatrix(whole, labels, fold_scores=scores, fold_support=support)


def test_gain_of_one_category_is_not_enough():
    found = draw_folds(np.random.default_rng(3), (3.0, 0.0), folds=8)
    by_category = evaluate(*found).p_values
    assert by_category[0] < 0.001
    assert by_category[1] > 0.05
    verdict = check_pareto(influence_of(*found))
    assert verdict.p_value == pytest.approx(by_category[1], rel=1e-4)
    assert not verdict.improvable
    assert verdict.answer == "not proven"


@pytest.mark.parametrize(("folds", "improvable"), [(1, False), (2, False), (3, True)])
def test_a_proof_needs_three_folds(folds, improvable):
    verdict = check_pareto(influence_of(*draw_folds(np.random.default_rng(0), (9.0, 9.0), folds=folds)))
    assert verdict.improvable == improvable
    assert np.isnan(verdict.p_value) != improvable
    assert ("held-out gains and their errors are unknown" in " ".join(str(verdict).split())) != improvable


@pytest.mark.parametrize("present", [1, 2])
def test_category_in_fewer_than_three_folds_proves_nothing(present):
    scores, support, labels = draw_folds(np.random.default_rng(0), (9.0, 9.0), folds=8)
    support[present:, 1] = 0
    found = evaluate(scores, support, labels)
    assert np.isinf(found.standard_error[1])
    assert found.p_values[1] == 1
    assert found.p_value == 1
    verdict = check_pareto(influence_of(scores, support, labels), level=0.99)
    assert not verdict.improvable
    assert "in fewer than 3 validation folds proves nothing" in str(verdict)


def test_other_folds_are_weighted_by_their_samples():
    """Compared with explicit averages over folds of random sizes."""
    rng = np.random.default_rng(0)
    scores, support = rng.normal(size=(4, 50, 2)), rng.integers(1, 9, size=(4, 2))
    scale, admissible = np.array([1.0, 2.0]), AdmissibleSet(rng.integers(0, 2, 50), 0.2)
    found = cross_fit(scores, support, scale, admissible)
    for fold in range(4):
        rest = [f for f in range(4) if f != fold]
        others = [np.average(scores[rest, :, k], axis=0, weights=support[rest, k]) for k in range(2)]
        weights = headroom(np.stack(others, axis=1), scale, admissible).weights
        np.testing.assert_allclose(found.by_fold[fold], predicted_gain(scores[fold], weights) / scale)


def test_scores_without_samples_are_ignored():
    scores, support, labels = draw_folds(np.random.default_rng(0), (2.0, 2.0))
    support[0, 1] = 0
    expected = evaluate(scores, support, labels)
    scores[0, :, 1] = np.nan
    found = cross_fit(scores, support, column_scale(np.nanmean(scores, axis=0)), AdmissibleSet(labels, 0.2))
    assert np.isfinite(found.p_value)
    np.testing.assert_array_equal(np.isnan(found.by_fold), support == 0)
    assert np.sign(found.mean).tolist() == np.sign(expected.mean).tolist()


def test_folds_without_spread():
    """Limits of the formula: a gain is certain, and there is no evidence if nothing moves."""
    found = _test(np.array([[1.0, 0.0, -1.0]] * 3), np.full((3, 3), 9), np.zeros(3))
    np.testing.assert_array_equal(found.standard_error, 0)
    np.testing.assert_allclose(found.p_values, [0, 0.5, 1])


def test_float32_scores_are_not_all_copied():
    """Peak memory is set by the LP of one fold, not by the number of folds."""
    import tracemalloc

    rng = np.random.default_rng(0)
    peaks = []
    for folds in (4, 32):
        scores = rng.normal(size=(folds, 2000, 3)).astype(np.float32)
        tracemalloc.start()
        cross_fit(scores, np.full((folds, 3), 5), np.ones(3), AdmissibleSet(np.zeros(2000, int), 0.2))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def by_fold(samples, folds=8):
    """Deal samples to folds. Returns the means of the folds, (F, …), and their sizes, (F,)."""
    fold = np.arange(len(samples)) % folds
    counts = np.bincount(fold, minlength=folds)
    means = [samples[fold == f].mean(axis=0) if counts[f] else np.full(samples.shape[1:], np.nan) for f in range(folds)]
    return np.stack(means), counts


@pytest.mark.parametrize("size", [3, 10, 15, 30])
def test_few_samples_without_a_bad_one_prove_nothing(size):
    """In all ten categories, one sample in twenty loses what the others gain. One category has few samples.

    The share of false proofs from the spread of these few alone is 0.7, 0.6, 0.5 and 0.2.
    """
    rng, draws = np.random.default_rng(0), 400
    parts = [np.where(rng.random((n, draws)) < 0.05, -19.0, 1.0) for n in (size, *[60] * 9)]
    gains, support = (np.stack(part, axis=-1) for part in zip(*[by_fold(part) for part in parts], strict=True))
    alone = [_test(gains[:, i, :1], 1000 * support[:, :1], np.zeros(1)).p_value <= 0.05 for i in range(draws)]
    found = [_test(gains[:, i], support, np.zeros(10)).p_values[0] <= 0.05 for i in range(draws)]
    assert np.mean(alone) > 0.15
    assert np.mean(found) <= 0.05


def test_common_spread_by_hand():
    """Variances of the means 4, 1 and ∞ with 10, 40 and 5 samples: σ² = (400 + 1600)/50 = 40, so 40/n for each."""
    found = _with_common_spread(np.array([4.0, 1.0, np.inf]), np.array([10, 40, 5]))
    np.testing.assert_allclose(found, [4, 1, np.inf])
    found = _with_common_spread(np.array([1.0, 1.0]), np.array([10, 40]))  # σ² = (100 + 1600)/50 = 34
    np.testing.assert_allclose(found, [3.4, 1.0])
    found = _with_common_spread(np.array([1.0, 0.001]), np.array([100, 300]))  # σ² = 10090/400, times 60/300
    np.testing.assert_allclose(found, [1.0, 10_090 / 400 / 300 * 0.2])


@pytest.mark.parametrize(("samples", "proves"), [((9, 100), False), ((10, 100), True), ((29, 30), False)])
def test_smallest_samples_that_can_prove_anything(samples, proves):
    gains, support = np.ones((3, 2)), np.array([[n - 2 * (n // 3), n // 3, n // 3] for n in samples]).T
    assert (_test(gains, support, np.zeros(2)).p_value == 0) == proves
    verdict = check_pareto(influence_of(*sized(support)))
    assert verdict.improvable == proves
    assert (verdict.worst_interval[0] > 0) == proves
    assert ("validation samples in total prove nothing" in str(verdict)) == (sum(samples) < 60)
    if samples[0] == 9:
        assert "0: 9 validation samples, needs about 10 (at least 10)" in str(verdict)


def sized(support):
    """Scores without noise. A fifth of the samples harms both categories."""
    rng = np.random.default_rng(0)
    scores = np.where(rng.random(100) < 0.2, -1.0, 0.25)[None, :, None] * np.ones((len(support), 1, 2))
    return scores, support, rng.integers(0, 2, 100)


def floors_demand(floor):
    return Demand(np.array([True, False, False]), np.full(3, floor))


def draw_trade_off(rng, folds=8, samples=44):
    """Fold scores where what helps category 0 harms category 1. Category 2 is independent of both."""
    scores, support, labels = draw_folds(rng, (1.5, 0.0, 0.0), folds=folds, samples=samples)
    scores[:, :, 1] -= 0.7 * scores.mean(axis=0)[:, 0]
    return scores, support, labels


@pytest.mark.slow
def test_keeps_its_level_if_a_category_just_misses_its_floor():
    """At the boundary: the margin equals the average held-out loss of categories 1 and 2 in the same draws.

    The target gains so clearly that the largest p-value is always theirs.
    """
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        scores, support, labels = draw_trade_off(rng)
        scale = column_scale((scores * support[:, None, :]).sum(axis=0) / support.sum(axis=0))
        found.append(cross_fit(scores, support, scale, AdmissibleSet(labels, 0.2), demand=floors_demand(0.0)))
    mean, error = np.stack([f.mean for f in found]), np.stack([f.standard_error for f in found])
    assert mean[:, 0].mean() > 0.05
    assert (mean[:, 1:].mean(axis=0) < 0.01).all(), "binding floors are not held on new samples"
    rejected = (mean - mean.mean(axis=0)) / error > stats.t.isf(0.05, 7)
    margin = 3 * np.sqrt(0.05 * 0.95 / 300)
    assert (rejected[:, 1:].mean(axis=0) <= 0.05 + margin).all()


def test_targets_must_gain_and_the_others_hold_their_floors():
    """Compared with a t-test by hand, of the target against 0 and of the others against floor − margin."""
    scores, support, labels = draw_trade_off(np.random.default_rng(1))
    verdict = check_pareto(influence_of(scores, support, labels), targets=[0], floors=[9.0, -0.1, -0.2], min_gain=0.03)
    excess = verdict.held_out_gain - [0.0, -0.13, -0.23]
    p_values = stats.t.sf(excess / verdict.standard_error, 7)
    assert verdict.p_value == pytest.approx(p_values.max())
    np.testing.assert_allclose(verdict.bar, [0.0, -0.13, -0.23])
    assert verdict.targets.tolist() == [True, False, False]
    assert verdict.prices[0] == pytest.approx(1)
    assert verdict.together[0] == pytest.approx(verdict.headroom, abs=1e-6)
    assert (verdict.together[1:] >= np.array([-0.1, -0.2]) - 1e-6).all()


def test_floors_that_the_other_folds_cannot_hold():
    """The whole set just holds the floor. Most of its parts cannot, and none of them stops the verdict."""
    scores, support, labels = draw_trade_off(np.random.default_rng(2))
    influence = influence_of(scores, support, labels)
    alone = check_pareto(influence).alone[2]
    verdict = check_pareto(influence, targets=[0], floors=[0.0, -9.0, 0.999 * alone])
    assert verdict.together[2] >= 0.998 * alone
    assert np.isfinite(verdict.held_out_gain).all()
    assert not verdict.improvable


def test_unreachable_floors_use_the_closest_weights():
    """All folds are alike, so the held-out gain is the most that the category can reach, computed here by sorting."""
    scores = np.random.default_rng(0).normal(size=(50, 3))
    admissible, scale = AdmissibleSet(np.zeros(50, int), 0.2), column_scale(scores)
    demand = Demand(np.array([True, False, False]), np.array([0.0, -99.0, 99.0]))
    found = cross_fit(np.repeat(scores[None], 3, axis=0), np.full((3, 3), 20), scale, admissible, demand=demand)
    most = np.sort(scores[:, 2].mean() - scores[:, 2])[-10:].sum() / 50 / scale[2]
    np.testing.assert_allclose(found.by_fold[:, 2], most)
