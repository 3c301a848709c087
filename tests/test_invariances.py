"""Invariance under order, class names, batch size, workers, scale and precision, and properties of degenerate LPs."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_pareto import (
    ClassificationTask,
    InfluenceMatrix,
    ParetoSampler,
    check_pareto,
    estimate_influence,
    reweight,
)
from lightning_pareto.influence.gains import column_scale, predicted_gain
from lightning_pareto.pareto.admissible import AdmissibleSet
from tests._asserts import assert_near
from tests._tolerances import RELATIVE

SLACK = 1e-6


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(90, 4, dtype=torch.float64)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return module, TensorDataset(x[:60], y[:60]), TensorDataset(x[60:], y[60:])


def scores(module, train, val, batch_size=16, **options):
    """Scores with exact curvature by default, so that no draw depends on the order of the samples."""
    options = {"curvature": "gauss_newton", "folds": 1, **options}
    loaders = (DataLoader(part, batch_size, num_workers=options.pop("workers", 0)) for part in (train, val))
    return estimate_influence(module, *loaders, **options).scores


def test_scores_do_not_depend_on_the_order_of_samples(problem):
    module, train, val = problem
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1)).tolist()
    turned = scores(module, Subset(train, order), Subset(val, list(range(30))[::-1]))
    assert_near(turned, scores(module, train, val)[order], RELATIVE[torch.float32])


@pytest.mark.parametrize("curvature", ["ekfac", "gauss_newton", "identity"])
def test_scores_follow_a_renumbering_of_classes(problem, curvature):
    """Logits and labels are renumbered alike. Sampled labels would depend on the numbering, so EK-FAC is exact here."""
    module, train, val = problem
    fisher = {"fisher": "exact"} if curvature == "ekfac" else {}
    new = [2, 0, 1]  # class k is called new[k]
    renamed = nn.Sequential(module[0], module[1], nn.Linear(8, 3).double())
    with torch.no_grad():
        renamed[2].weight[new], renamed[2].bias[new] = module[2].weight, module[2].bias
    parts = (TensorDataset(part.tensors[0], torch.tensor(new)[part.tensors[1]]) for part in (train, val))
    found = scores(renamed, *parts, curvature=curvature, **fisher)
    expected = scores(module, train, val, curvature=curvature, **fisher)
    assert_near(found[:, new], expected, RELATIVE[torch.float32])


@pytest.mark.parametrize("batch_size", [1, 7, 60])
@pytest.mark.parametrize("curvature", ["ekfac", "gauss_newton"])
def test_scores_do_not_depend_on_the_batch_size(problem, batch_size, curvature):
    found = scores(*problem, batch_size=batch_size, curvature=curvature)
    assert_near(found, scores(*problem, curvature=curvature), RELATIVE[torch.float32])


def test_scores_are_identical_with_workers(problem):
    np.testing.assert_array_equal(scores(*problem, workers=2, curvature="ekfac"), scores(*problem, curvature="ekfac"))


def test_same_seed_gives_identical_scores(problem):
    first, again, other = (scores(*problem, curvature="ekfac", seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_scores_scale_with_the_square_of_the_loss(problem, factor):
    """The curvature is the model's and stays the same, and so do the verdict and the weights."""

    def loss(logits, targets):
        return factor * nn.functional.cross_entropy(logits, targets, reduction="none")

    found, expected = scores(*problem, task=ClassificationTask(loss=loss)), scores(*problem)
    assert_near(found / factor**2, expected, RELATIVE[torch.float32])
    y = problem[1].tensors[1].numpy()
    scaled, plain = (InfluenceMatrix(each, y) for each in (found, expected))
    assert check_pareto(scaled).headroom == pytest.approx(check_pareto(plain).headroom, rel=1e-4)
    np.testing.assert_allclose(reweight(scaled).values, reweight(plain).values, atol=1e-3)


@pytest.mark.parametrize("curvature", ["ekfac", "gauss_newton"])
def test_float32_agrees_with_float64(problem, curvature):
    module, train, val = problem
    single = nn.Sequential(*(type(m)(8 if i else 4, 3 if i else 8) if i != 1 else m for i, m in enumerate(module)))
    single.load_state_dict(module.state_dict())
    parts = (TensorDataset(part.tensors[0].float(), part.tensors[1]) for part in (train, val))
    assert_near(scores(single, *parts, curvature=curvature), scores(*problem, curvature=curvature), 1e-3)


sizes = st.tuples(st.integers(1, 40), st.integers(1, 6))


@st.composite
def matrices(draw):
    """Scores that make LPs degenerate: zeros, equal rows and columns, more columns than rows."""
    n, k = draw(sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["normal", "zero", "equal", "duplicates", "zero column", "signs", "small", "huge"]))
    values = rng.normal(size=(n, k))
    if kind == "zero":
        values[:] = 0
    elif kind == "equal":
        values[:] = values[0, 0]
    elif kind == "duplicates":
        values[:, -1], values[-1] = values[:, 0], values[0]
    elif kind == "zero column":
        values[:, 0] = 0
    elif kind == "signs":
        values = np.sign(values)
    elif kind in ("small", "huge"):
        values *= 1e-12 if kind == "small" else 1e12
    return InfluenceMatrix(values, rng.integers(0, draw(st.integers(1, 4)), n))


budgets = st.sampled_from([1e-3, 0.2, 0.5, 1.0])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(matrices(), budgets)
def test_headroom_is_always_certified(matrix, budget):
    """The weights reach h, and the prices prove that no admissible weights reach more."""
    verdict = check_pareto(matrix, budget=budget)
    assert 0 <= verdict.headroom < np.inf
    assert np.isfinite(verdict.prices).all()
    assert (verdict.prices >= -SLACK).all()
    admissible, scale = AdmissibleSet(matrix.labels, budget), column_scale(matrix.scores)
    assert verdict.headroom <= verdict.together.min() + SLACK
    weighted = admissible.slopes(matrix.scores) / scale @ verdict.prices / len(matrix.labels)
    best = np.sort(weighted.clip(min=0))[::-1]
    whole = int(budget * len(best))
    bound = best[:whole].sum() + (best[whole : whole + 1].sum() * (budget * len(best) - whole))
    assert verdict.headroom == pytest.approx(bound, abs=SLACK * max(1, whole))
    assert not verdict.improvable, "without folds nothing is proven"
    assert str(verdict)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(matrices(), budgets, st.sampled_from(["additive", "multiplicative"]))
def test_weights_keep_the_mass_of_every_class_and_harm_none(matrix, budget, return_mass):
    weights = reweight(matrix, budget=budget, return_mass=return_mass)
    assert (weights.values >= 0).all()
    for label in np.unique(matrix.labels):
        members = matrix.labels == label
        assert weights.values[members].sum() == pytest.approx(members.sum(), rel=1e-9)
    scale = column_scale(matrix.scores)
    expected = predicted_gain(matrix.scores, weights.values)
    np.testing.assert_allclose(weights.predicted_gain / scale, expected / scale, atol=SLACK)
    if return_mass == "additive":
        assert weights.moved <= budget + SLACK
        assert (weights.predicted_gain / scale).min() >= -SLACK


@settings(max_examples=60, deadline=None, derandomize=True)
@given(matrices(), st.sampled_from([1.0, 2.0]))
def test_paper_weights_meet_their_thresholds(matrix, largest):
    sums = matrix.scores.sum(axis=0, dtype=np.float64)
    alpha = np.where(sums >= 0, 0.5, 1.0)  # w = 1 meets these thresholds
    slack = SLACK * np.abs(matrix.scores).sum(axis=0)
    scores, scale = matrix.scores.astype(np.float64), column_scale(matrix.scores)
    total = scores.sum(axis=1) / max(scale.max(), np.finfo(float).tiny)
    best = linprog(-total, -(scores / scale).T, -alpha * sums / scale, bounds=(0, largest))
    assume(best.status == 0 and -best.fun > SLACK)  # without a gain all weights would be zero, which is rejected
    weights = reweight(matrix, method="paper", thresholds=alpha, max_weight=largest)
    assert ((weights.values >= 0) & (weights.values <= largest)).all()
    assert (weights.values @ scores >= alpha * sums - slack).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([0.0, 1e-9, 0.3, 1.0, 1.7, 2.0, 50.0]), min_size=1, max_size=40).filter(any),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_every_sample_is_drawn_within_one_of_its_weight(values, replicas, epoch):
    draws = []
    for rank in range(replicas):
        sampler = ParetoSampler(values, num_replicas=replicas, rank=rank, seed=1)
        sampler.set_epoch(epoch)
        draws.append(list(sampler))
        assert len(draws[-1]) == len(sampler)
    dealt = [index for row in zip(*draws, strict=True) for index in row]
    total = max(1, round(sum(values)))
    counts = np.bincount(dealt[:total], minlength=len(values))
    scaled = np.array(values) * total / sum(values)
    assert counts.sum() == total
    assert (np.abs(counts - scaled) < 1 + 1e-9).all()


@pytest.mark.parametrize("k", [2, 10, 100, 1000])
def test_more_categories_than_samples(k):
    """With at least 100 categories and 30 samples there is no headroom."""
    rng = np.random.default_rng(0)
    matrix = InfluenceMatrix(rng.normal(size=(30, k)), np.arange(30) % 2)
    verdict = check_pareto(matrix)
    assert verdict.headroom == 0 if k >= 100 else verdict.headroom >= 0
    assert verdict.prices.sum() == pytest.approx(1)
    weights = reweight(matrix)
    assert (weights.predicted_gain / column_scale(matrix.scores)).min() >= -SLACK
    assert reweight(matrix, method="paper", thresholds=0.9).values.max() <= 2
    zero = InfluenceMatrix(np.zeros((30, k)), np.arange(30) % 2)
    assert check_pareto(zero).answer == "no"
    np.testing.assert_allclose(reweight(zero).values, 1.0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(matrices(), st.integers(0, 2**16))
def test_verdict_does_not_depend_on_the_order_of_samples_or_categories(matrix, seed):
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(matrix.labels)), rng.permutation(len(matrix.category_names))
    turned = InfluenceMatrix(matrix.scores[rows][:, columns], matrix.labels[rows])
    found, expected = check_pareto(turned), check_pareto(matrix)
    assert found.headroom == pytest.approx(expected.headroom, abs=SLACK)
    np.testing.assert_allclose(found.alone, expected.alone[columns], atol=SLACK)
    np.testing.assert_allclose(found.drift, expected.drift[columns], atol=1e-5)
    assert found.answer == expected.answer or abs(found.headroom - found.min_gain) < SLACK
