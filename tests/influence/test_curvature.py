"""Tests of the curvature approximations against dense matrices."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from lightning_pareto import estimate_influence
from lightning_pareto.influence.curvature import CurvatureError, fit_curvature
from lightning_pareto.influence.curvature.ekfac import (
    EkfacCurvature,
    _corrected_eigenvalues,
    _FactorSums,
    _spread_by_frequency,
)
from lightning_pareto.influence.curvature.fisher import Fisher, exact_signals, sampled_signal
from lightning_pareto.influence.gradients import GradientProbe
from lightning_pareto.influence.layers import select_layers
from lightning_pareto.influence.operations import Convolution
from lightning_pareto.influence.passes import GradientPass
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.influence.verification import verify
from tests._asserts import assert_near
from tests._oracles import exact_hessian, flat_sample_gradients, loader
from tests._tolerances import RELATIVE
from tests.influence._networks import CLASSES, FAST, SLOW


def training_pass(module, x, y, **options):
    probe = GradientProbe(module, select_layers(module), ClassificationTask())
    return GradientPass(loader=loader(x, y, **options), probe=probe, shard=Shard(), device=torch.device("cpu"))


def draw_fisher(size, name="sampled", seed=0):
    return Fisher.draw(name, size, seed, ClassificationTask().loss)


@pytest.fixture
def problem():
    torch.manual_seed(1)
    return nn.Linear(3, 4).double(), torch.randn(50, 3).double(), torch.randint(4, (50,))


def test_outer_products_of_exact_signals_sum_to_softmax_covariance():
    p = torch.randn(6, 4).double().softmax(1)
    signals = torch.stack(list(exact_signals(p.log())))
    total = torch.einsum("cbi,cbj->bij", signals, signals)
    assert_near(total, torch.diag_embed(p) - p[:, :, None] * p[:, None, :], RELATIVE[torch.float64])


def test_sampled_signals_have_the_softmax_covariance_on_average():
    logits = torch.tensor([[0.5, -1.0, 0.3]]).double().repeat(100_000, 1)
    signal = sampled_signal(logits, torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    p = logits[0].softmax(0)
    assert_near(signal.T @ signal / len(signal), torch.diag(p) - torch.outer(p, p), 0.02)


def test_gauss_newton_is_the_hessian_of_logistic_regression(problem):
    module, x, y = problem
    curvature = fit_curvature("gauss_newton", training_pass(module, x, y), damping=0.1, fisher=draw_fisher(50))
    hessian = exact_hessian(module, x, y)
    damped = hessian + 0.1 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    right = torch.randn(2, 16).double()
    layer = curvature.layers[0]
    shaped = torch.cat([right[:, :12].reshape(2, 1, 4, 3), right[:, 12:].reshape(2, 1, 4, 1)], dim=3)
    [solved] = curvature.solve({layer: shaped}).values()
    solved = torch.cat([solved[..., :3].flatten(1), solved[..., 3:].flatten(1)], dim=1)
    assert layer.name == ""
    assert_near(solved, torch.linalg.solve(damped, right.T).T, RELATIVE[torch.float64])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_ekfac_keeps_the_trace(groups):
    """The corrected eigenvalues are second moments in a rotated basis, so they sum to the squared gradient norm."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=groups, padding=1, padding_mode="circular"), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
    ).double()
    x, y = torch.randn(40, 4, 4, 4).double(), torch.randint(3, (40,))
    train = training_pass(module, x, y)
    curvature = EkfacCurvature.fit(train, 0.1, draw_fisher(40, seed=5))
    uniforms = torch.rand(40, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    drawn = (module(x).softmax(1).cumsum(1) < uniforms[:, None]).sum(1)
    expected = flat_sample_gradients(module, x, drawn).square().sum() / 40
    assert_near(sum(e.sum() for e in curvature.eigenvalues.values()), expected, RELATIVE[torch.float64])


def test_ekfac_is_exact_for_a_kronecker_product(problem):
    """If all samples have the same input, the Fisher information of a linear layer is a Kronecker product."""
    module, x, y = problem
    x = x[:1].repeat(50, 1)
    train = training_pass(module, x, y)
    curvature = EkfacCurvature.fit(train, 0.1, draw_fisher(50))
    uniforms = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = (module(x).softmax(1).cumsum(1) < uniforms[:, None]).sum(1)
    loop = flat_sample_gradients(module, x, drawn)
    fisher = loop.T @ loop / 50
    damped = fisher + 0.1 * fisher.diagonal().mean() * torch.eye(16, dtype=torch.float64)
    right = torch.randn(1, 1, 4, 4).double()
    [solved] = curvature.solve({next(iter(curvature.bases)): right}).values()
    flat = torch.cat([right[0, 0, :, :3].flatten(), right[0, 0, :, 3]])
    found = torch.cat([solved[0, 0, :, :3].flatten(), solved[0, 0, :, 3]])
    assert_near(found, torch.linalg.solve(damped, flat), 1e-8)


def test_error_names_the_layer_with_non_finite_factors(problem):
    module, x, y = problem
    x[7, 0] = 1e200  # its square overflows, the logits do not
    module.weight.data.zero_()
    with pytest.raises(CurvatureError, match="layer '' are not finite"):
        fit_curvature("ekfac", training_pass(module, x, y), damping=0.1, fisher=draw_fisher(50))


def test_gauss_newton_refuses_a_large_model():
    module = nn.Linear(2_000, 3)
    with pytest.raises(ValueError, match="up to 5000 parameters, found 6003 covered parameters"):
        fit_curvature(
            "gauss_newton",
            training_pass(module, torch.randn(4, 2_000), torch.tensor([0, 1, 2, 0])),
            damping=0.1,
            fisher=draw_fisher(4),
        )


RECURRENT = pytest.param("recurrent", marks=pytest.mark.slow)


@pytest.mark.parametrize("case", ["conv groups", "embedding", "layer norm", "self attention", RECURRENT])
def test_conjugate_gradients_reach_the_dense_solution(case, monkeypatch):
    """With the exact Fisher information over all layers together."""
    monkeypatch.setattr("lightning_pareto.influence.curvature.conjugate_gradients.ITERATIONS", 500)
    torch.manual_seed(0)
    module, shape = (FAST | SLOW)[case]()
    module.double().eval()
    x = torch.randint(7, (20, shape)) if isinstance(shape, int) else torch.randn(20, *shape).double()
    train = training_pass(module, x, torch.randint(CLASSES, (20,)))
    with train.probe.open():
        verify(train.probe, train.batch_of(range(3)))
        exact = fit_curvature("gauss_newton", train, damping=0.1, fisher=draw_fisher(20, "exact"), tolerance=1e-3)
        iterative = fit_curvature("cg", train, damping=0.1, fisher=draw_fisher(20, "exact"), tolerance=1e-10)
        right = {layer: torch.randn(3, *exact.shapes[layer]).double() for layer in exact.layers}
        expected, found, ekfac = (c.solve(right) for c in (exact, iterative, iterative.preconditioner))
    for layer, direction in expected.items():
        assert_near(found[layer], direction, 1e-8)
    assert any((ekfac[layer] - expected[layer]).abs().max() > 0.01 * expected[layer].abs().max() for layer in expected)


def test_conjugate_gradients_warn_when_they_stop_early(problem, monkeypatch):
    module, x, y = problem
    monkeypatch.setattr("lightning_pareto.influence.curvature.conjugate_gradients.ITERATIONS", 1)
    curvature = fit_curvature("cg", training_pass(module, x, y), damping=1e-4, fisher=draw_fisher(50), tolerance=1e-12)
    with pytest.warns(UserWarning, match="stopped after 1 iterations with a residual of"):
        curvature.solve({curvature.train.probe.layers[0]: torch.randn(2, 1, 4, 4).double()})


def test_exact_fisher_is_the_mean_of_sampled_fisher(problem):
    module, x, y = problem
    train = training_pass(module, x.repeat(200, 1), y.repeat(200))
    exact = fit_curvature("ekfac", train, damping=0.1, fisher=draw_fisher(10_000, "exact"), tolerance=1e-3)
    sampled = fit_curvature("ekfac", train, damping=0.1, fisher=draw_fisher(10_000), tolerance=1e-3)
    [layer] = exact.bases
    right = {layer: torch.randn(1, 1, 4, 4).double()}
    assert_near(sampled.solve(right)[layer], exact.solve(right)[layer], 0.1)
    empirical = fit_curvature("ekfac", train, damping=0.1, fisher=draw_fisher(10_000, "empirical"), tolerance=1e-3)
    loop = flat_sample_gradients(module, x, y).square().sum() / 50
    assert_near(empirical.eigenvalues[layer].sum(), loop, 1e-10)


def test_conjugate_gradients_include_layers_without_a_direction():
    """A layer that only the training set reaches still affects the curvature of the others."""
    torch.manual_seed(0)

    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.extra, self.head = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            return self.head(x) + (self.extra(x.flip(1)) if x[0, 0] > 0 else 0)

    x, y = torch.randn(40, 3).double(), torch.arange(40) % 4
    high, low = (x.clone() for _ in range(2))
    high[:, 0], low[:, 0] = x[:, 0].abs(), -x[:, 0].abs()
    module = Sometimes().double()
    found, exact = (
        estimate_influence(module, loader(high, y), loader(low, y), curvature=curvature, tolerance=1e-9)
        for curvature in ("cg", "gauss_newton")
    )
    assert_near(found.scores, exact.scores, 1e-5)


def test_embedding_rows_missing_from_the_curvature_samples(monkeypatch):
    """Eigenvalues from few samples are close to those from all samples, and every row has curvature."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(200, 8), nn.Flatten(), nn.Linear(40, 4)).double()
    frequency = 1 / torch.arange(1, 201).double()
    x, y = torch.multinomial(frequency, 3_000 * 5, replacement=True).view(3_000, 5), torch.arange(3_000) % 4
    train = training_pass(module, x, y, batch_size=500)
    whole = EkfacCurvature.fit(train, 0.1, draw_fisher(3_000))
    monkeypatch.setattr("lightning_pareto.influence.curvature.ekfac.ENOUGH_SAMPLES", 200)
    part = EkfacCurvature.fit(train, 0.1, draw_fisher(3_000))
    [layer] = [layer for layer in part.bases if "0.weight" in layer.names]
    assert float(part.eigenvalues[layer].min()) > 0
    right = {layer: torch.randn(20, 1, 200, 8).double()}
    a, b = (torch.cat([s.flatten() for s in c.solve(right).values()]) for c in (whole, part))
    assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.95
    assert 0.5 < float(b.norm() / a.norm()) < 2


def test_eigenvalues_of_embedding_rows_are_proportional_to_counts_plus_a_half():
    values = torch.rand(1, 3, 2).double()
    found = _spread_by_frequency(values, torch.tensor([[4.0, 0.0, 1.0]]).double())
    assert_near(found, torch.tensor([4.5, 0.5, 1.5]).double()[:, None] / 6.5 * values.sum(1, keepdim=True), 1e-12)


def test_exact_fisher_does_not_count_positions_once_per_class(problem):
    """It visits every position once per class, but that adds no information about the layer's inputs."""
    train = training_pass(*problem)
    fits = [_FactorSums.fit(train, draw_fisher(50, name)) for name in ("sampled", "exact")]
    positions = [[float(p) for p in fit.positions.values()] for fit in fits]
    assert positions[0] == pytest.approx(positions[1])
    assert positions[0][0] == 50


def test_conjugate_gradients_hold_factors_of_one_part_at_a_time(monkeypatch):
    """With memory for one sample, the factors of at most two parts exist at once, and the solution is the same."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(12, CLASSES)
    ).double()
    train = training_pass(module, torch.randn(12, 2, 6, 6).double(), torch.arange(12) % CLASSES, batch_size=6)
    made, most = [], []

    def watched(self, *args):
        new = factors(self, *args)
        made.append(weakref.ref(new))
        most.append(sum(old() is not None for old in made))
        return new

    factors = Convolution.factors
    right = {layer: torch.randn(2, *shape).double() for layer, shape in zip(train.probe.layers, SHAPES, strict=True)}
    whole = fit_curvature("cg", train, damping=10.0, fisher=draw_fisher(12, "exact"), tolerance=1e-10).solve(right)
    train.probe.memory.elements = 1
    monkeypatch.setattr(Convolution, "factors", watched)
    parts = fit_curvature("cg", train, damping=10.0, fisher=draw_fisher(12, "exact"), tolerance=1e-10).solve(right)
    assert max(most) <= 2
    for layer, direction in whole.items():
        assert_near(parts[layer], direction, 1e-8)


SHAPES = [(1, 3, 19), (1, 3, 28), (1, CLASSES, 13)]


def samples_used(train, monkeypatch, enough, per_row):
    """How many samples the factors of each layer come from."""
    monkeypatch.setattr("lightning_pareto.influence.curvature.ekfac.ENOUGH_SAMPLES", enough)
    monkeypatch.setattr("lightning_pareto.influence.curvature.ekfac.POSITIONS_PER_ROW", per_row)
    sums = _FactorSums.fit(train, draw_fisher(train.size))
    return {
        layer.name: round(float(sums.positions[layer]) / each)
        for layer, each in zip(sums.positions, (9, 1), strict=True)
    }


def test_only_layers_not_yet_well_determined_take_more_samples(monkeypatch):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 4)).double()
    train = training_pass(module, torch.randn(400, 1, 10).double(), torch.arange(400) % 4, batch_size=7)
    # layer 0: 3 rows, 9 positions per sample, so 5 · 3 / 9 samples are enough; layer 3: 19 rows, 1 position, so 5 · 19
    assert samples_used(train, monkeypatch, 40, 5) == {"0": 40, "3": 95}
    assert samples_used(train, monkeypatch, 40, 50) == {"0": 40, "3": 400}
    assert samples_used(train, monkeypatch, 40, 200) == {"0": 67, "3": 400}
    assert samples_used(train, monkeypatch, 1_000, 50) == {"0": 400, "3": 400}


def test_factors_are_sums_over_exactly_the_first_samples(monkeypatch):
    """The input factor of a linear layer is the second moment of its inputs over the samples it should use."""
    monkeypatch.setattr("lightning_pareto.influence.curvature.ekfac.ENOUGH_SAMPLES", 10)
    monkeypatch.setattr("lightning_pareto.influence.curvature.ekfac.POSITIONS_PER_ROW", 6)
    torch.manual_seed(0)
    x = torch.randn(50, 4).double()
    train = training_pass(nn.Linear(4, 3).double(), x, torch.arange(50) % 3, batch_size=8)
    [found] = _FactorSums.fit(train.sample(None, 3), draw_fisher(50)).inputs.values()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))[:30]  # 6 positions for each of 5 rows
    rows = torch.cat([x[order], torch.ones(30, 1).double()], dim=1)
    assert_near(found[0], rows.T @ rows, RELATIVE[torch.float64])


def test_eigenvalues_come_from_the_first_samples(monkeypatch):
    monkeypatch.setattr("lightning_pareto.influence.curvature.ekfac.ENOUGH_SAMPLES", 20)
    torch.manual_seed(0)
    train = training_pass(nn.Linear(4, 3).double(), torch.randn(50, 4).double(), torch.arange(50) % 3, batch_size=8)
    stages: list[tuple[str, int]] = []
    watched = replace(train, progress=lambda stage, _done, total: stages.append((stage, total)))
    curvature = EkfacCurvature.fit(watched, 0.1, draw_fisher(50))
    assert dict(stages)["eigenvalues"] == 3, "20 samples in batches of 8"
    first = train.part(0, 20)
    monkeypatch.setattr("lightning_pareto.influence.curvature.ekfac.ENOUGH_SAMPLES", 50)
    [expected] = _corrected_eigenvalues(first, draw_fisher(50), curvature.bases).values()
    [found] = curvature.eigenvalues.values()
    assert_near(found, expected, RELATIVE[torch.float64])
