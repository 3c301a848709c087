"""The verdict on data that reweighting can and cannot improve."""

import numpy as np
import pytest

from lightning_pareto import InfluenceMatrix, ParetoVerdict, check_pareto, estimate_influence
from lightning_pareto.datasets import gaussian_classes
from lightning_pareto.pareto.hyperplane import explained_variance_ratio, hyperplane_distance, regions
from tests._oracles import class_losses, fit_logistic, loader


def logistic_verdict(noise, seed, budget=0.1):
    train, val = gaussian_classes(1000, noise=noise, seed=seed), gaussian_classes(600, seed=1000 + seed)
    x, x_val = train.inputs.double(), val.inputs.double()
    module = fit_logistic(x, train.given, 4)
    influence = estimate_influence(
        module, loader(x, train.given), loader(x_val, val.given), curvature="gauss_newton", damping=1e-3
    )
    return check_pareto(influence, budget=budget), module, train


def test_noisy_labels_are_improvable_and_a_small_step_helps_every_class():
    verdict, module, train = logistic_verdict(noise=0.3, seed=0)
    assert verdict.improvable
    assert verdict.answer == "yes"
    test = gaussian_classes(20_000, seed=77)
    wrong = train.flipped
    weights = 1 - 0.1 * wrong + 0.1 * np.array([wrong[(train.given == y).numpy()].mean() for y in train.given])
    after = fit_logistic(train.inputs.double(), train.given, 4, weights)
    before, after = (class_losses(m, test.inputs.double(), test.given, 4) for m in (module, after))
    assert (after < before).all()


def test_clean_labels_at_the_optimum_are_not_improvable():
    """The model is optimal. The in-sample headroom still exceeds ``min_gain`` every time, but not held out."""
    verdicts = [logistic_verdict(noise=0.0, seed=seed)[0] for seed in range(10)]
    assert all(verdict.headroom > verdict.min_gain for verdict in verdicts)
    assert sum(verdict.improvable for verdict in verdicts) <= 1
    assert sum(verdict.answer == "not proven" for verdict in verdicts) >= 9
    assert np.mean([verdict.held_out_gain.min() for verdict in verdicts]) < 0.01
    assert np.median([verdict.p_value for verdict in verdicts]) > 0.3


def test_gain_must_be_significant_and_above_min_gain():
    verdict = check_pareto(random_influence(1.5))
    least, h = float(verdict.held_out_gain.min()), verdict.headroom
    assert verdict.p_value < 0.01
    assert least > 0.01
    between = (least + float(verdict.held_out_gain.max())) / 2
    assert least < between < h
    for min_gain, answer in ((0.99 * least, "yes"), (between, "not proven"), (1.01 * h, "no")):
        again = check_pareto(random_influence(1.5), min_gain=min_gain)
        assert (again.answer, again.improvable) == (answer, answer == "yes")
    for level, answer in ((0.99 * verdict.p_value, "not proven"), (1.01 * verdict.p_value, "yes")):
        assert check_pareto(random_influence(1.5), level=level).answer == answer


def random_influence(signal, seed=0, folds=8, n=400, k=3):
    """Scores with a fifth of jointly harmful samples, and independent noise in each fold."""
    rng = np.random.default_rng(seed)
    common = np.where(rng.random(n) < 0.2, -signal, 0)[:, None] + rng.normal(size=(n, k))
    fold_scores = common + rng.normal(size=(folds, n, k))
    return InfluenceMatrix(
        fold_scores.mean(axis=0),
        rng.integers(0, k, n),
        ["cat", "dog", "cow"],
        fold_scores=fold_scores,
        fold_support=np.full((folds, k), 20),
    )


def test_without_folds_nothing_is_proven():
    influence = random_influence(3.0)
    verdict = check_pareto(InfluenceMatrix(influence.scores, influence.labels))
    assert not verdict.improvable
    assert verdict.answer == "not proven"
    assert np.isnan(verdict.p_value)
    assert "folds=8" in str(verdict)


def test_absent_category_is_left_out():
    influence = random_influence(3.0)
    scores, folds = influence.scores.copy(), influence.fold_scores.copy()
    scores[:, 1] = np.nan
    support = influence.fold_support.copy()
    support[:, 1] = 0
    found = check_pareto(
        InfluenceMatrix(scores, influence.labels, influence.category_names, fold_scores=folds, fold_support=support)
    )
    expected = check_pareto(
        InfluenceMatrix(
            influence.scores[:, [0, 2]],
            influence.labels,
            fold_scores=influence.fold_scores[:, :, [0, 2]],
            fold_support=influence.fold_support[:, [0, 2]],
        )
    )
    assert found.headroom == pytest.approx(expected.headroom)
    assert found.p_value == pytest.approx(expected.p_value)
    assert np.isnan(found.held_out_gain[1])
    assert found.prices[1] == 0
    assert found.targets.tolist() == [True, False, True]
    assert "dog       no validation samples" in str(found)


def test_category_in_a_single_fold_proves_nothing():
    influence = random_influence(3.0)
    assert check_pareto(influence).improvable
    support = influence.fold_support.copy()
    support[1:, 2] = 0
    lonely = InfluenceMatrix(
        influence.scores, influence.labels, fold_scores=influence.fold_scores, fold_support=support
    )
    assert not check_pareto(lonely).improvable


def test_verdict_does_not_depend_on_the_order_of_samples_or_categories():
    influence = random_influence(1.0)
    verdict = check_pareto(influence)
    rows, columns = np.random.default_rng(1).permutation(400), [2, 0, 1]
    shuffled = InfluenceMatrix(
        influence.scores[rows][:, columns],
        influence.labels[rows],
        fold_scores=influence.fold_scores[:, rows][:, :, columns],
        fold_support=influence.fold_support[:, columns],
    )
    again = check_pareto(shuffled)
    assert again.headroom == pytest.approx(verdict.headroom)
    np.testing.assert_allclose(again.held_out_gain, verdict.held_out_gain[columns], atol=1e-6)
    np.testing.assert_allclose(again.prices, verdict.prices[columns], atol=1e-6)


def test_underfitted_model_is_flagged():
    """Anything improves an untrained model. After training, further training no longer helps every class."""
    train, val = gaussian_classes(500, seed=0), gaussian_classes(400, seed=1)
    x, x_val = train.inputs.double(), val.inputs.double()
    untrained = fit_logistic(x[:4], train.given[:4], 4, l2=10.0)
    found = []
    for module in (untrained, fit_logistic(x, train.given, 4)):
        influence = estimate_influence(module, loader(x, train.given), loader(x_val, val.given))
        found.append(check_pareto(influence))
    assert [verdict.underfitted for verdict in found] == [True, False]
    assert "UNDERFITTED" in str(found[0])
    assert "UNDERFITTED" not in str(found[1])


@pytest.mark.parametrize(
    ("drift", "underfitted"), [([0.5, 0.07, 0.13], True), ([0.2, 0.08, 0.06], False), ([0.6, 0.3, -0.02], False)]
)
def test_underfitted_depends_on_the_mean_and_the_smallest_drift(drift, underfitted):
    """Scores have one magnitude per category. The share of positive scores sets the drift."""
    n = 1_000
    scores = np.stack([np.where(np.arange(n) < n * (1 + d) / 2, 1.0, -1.0) for d in drift], axis=1)
    scores *= 1 + np.arange(len(drift))
    verdict = check_pareto(InfluenceMatrix(scores, np.zeros(n, int)))
    np.testing.assert_allclose(verdict.drift, drift, atol=0.002)
    assert verdict.underfitted is underfitted


def test_rejects_anything_but_an_influence_matrix():
    with pytest.raises(TypeError, match="expected an InfluenceMatrix, found ndarray"):
        check_pareto(np.ones((3, 2)))


def test_saves_loads_and_prints_within_80_columns(tmp_path):
    verdict = check_pareto(random_influence(2.0))
    again = ParetoVerdict.load(verdict.save(tmp_path / "verdict.safetensors"))
    assert str(again) == str(verdict)
    assert max(map(len, str(verdict).splitlines())) <= 80
    assert again.regions.harmful == verdict.regions.harmful


def test_diagnostics_of_the_paper():
    line = np.array([[1.0, -1.0], [-2.0, 2.0], [0.5, -0.5]])
    assert hyperplane_distance(line) == pytest.approx(0)
    assert hyperplane_distance(np.abs(line)) == pytest.approx(1)
    np.testing.assert_allclose(explained_variance_ratio(line), [1, 0], atol=1e-12)
    cross = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(explained_variance_ratio(cross + 9.0 * np.eye(2)[1]), [0.8, 0.2])  # centred first
    found = regions(np.array([[1.0, 2.0], [-1.0, -1.0], [1.0, -1.0], [0.0, 1.0]]))
    assert found.sign.tolist() == [1, -1, 0, 0]
    assert (found.beneficial, found.harmful, found.trade_off) == (0.25, 0.25, 0.5)
